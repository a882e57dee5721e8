"""What is installed from a wheel works anywhere, settings included."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ["setup.py", "pyproject.toml", "README.md", "LICENSE"]


def run(*command, cwd, status=0):
    """A command in a folder, with nothing of the checkout on its path."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The python of an environment with our wheel, and below it the packages that are here already."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves things behind
    for name in ("wavenet_ae", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source / name)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    run(sys.executable, *build, cwd=folder)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=folder)
    (site / "beside.pth").write_text(sysconfig.get_path("purelib"))  # as a path only: its own .pth are not read
    return python


def test_the_wheel_is_what_runs_and_holds_every_setting(installed, tmp_path):
    where = "import wavenet_ae, wavenet_ae.command; print(wavenet_ae.__file__); print(wavenet_ae.command.CONF)"
    package, conf = map(Path, run(installed, "-c", where, cwd=tmp_path).split())
    assert installed.parents[1] in package.parents, "not the checkout's"
    assert package.parent in conf.parents
    inside = {path.relative_to(conf) for path in conf.rglob("*.yaml")}
    assert inside == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    code = {path.relative_to(package.parent) for path in package.parent.rglob("*.py")}
    here = {path.relative_to(ROOT / "wavenet_ae") for path in (ROOT / "wavenet_ae").rglob("*.py")}
    assert code == here, "nothing is left out"
    beside = {path.name for path in package.parents[1].iterdir() if path.is_dir() and "dist-info" not in path.name}
    assert beside == {"wavenet_ae"}, "and neither tests nor benchmarks are let in"
    assert (package.parent / "py.typed").exists()


def test_what_is_installed_trains_and_generates_in_any_folder(installed, tmp_path, corpus):
    assert "nsynth, overfit_one_note, small, smoke" in run(installed, "-m", "wavenet_ae.train", "--help", cwd=tmp_path)
    settings = ["experiment=smoke", f"notes.root={corpus}", "steps=2", "listen_every=0", "run=run"]
    said = run(installed, "-m", "wavenet_ae.train", *settings, cwd=tmp_path)
    assert "all steps done after 2 steps" in said
    [note, *_] = sorted((corpus / "test" / "audio").iterdir())
    given = ["checkpoint=run/model.safetensors", f"input={note}", "seconds=0.02"]
    assert "1 sounds in generated" in run(installed, "-m", "wavenet_ae.generate", *given, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generated", "run"]
