"""Promises about the package's shape: imports point down, the README's map is the docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wavenet_ae"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
COMMANDS = ["prepare", "train", "encode", "generate", "interpolate", "evaluate", "probe", "convert", "export"]
COMMANDS += ["perform", "demo"]
BESIDE = ["figures"]  # rooms of lower floors, whose __main__.py is a command
FLOORS = [  # lowest first
    ["files", "workers"],
    ["audio", "mulaw"],
    ["notes", "spectra", "score"],
    ["models"],
    ["sampler", "checkpoint", "magenta", "embeddings", "metrics", "figures", "page"],
    ["synthesis", "instrument", "tables"],
    ["provenance", "performance"],
    ["training"],
    ["command"],
    COMMANDS,
]
CONFIGURED = {PACKAGE / "command.py"} | {
    path for name in (*COMMANDS, *BESIDE) for path in (PACKAGE / f"{name}.py", PACKAGE / name / "__main__.py")
}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(room):
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room} has no floor: give it one in {Path(__file__).name}"
    return found[0]


def imports(path):
    """Every module that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports by dots: expected whole names"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_rules_see_the_package():
    assert len(FILES) > 30
    assert "wavenet_ae.files" in list(imports(PACKAGE / "audio.py"))
    assert "wavenet_ae.training.run.Run" in list(imports(PACKAGE / "train.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("wavenet_ae.")}
    if path == PACKAGE / "__init__.py":
        assert not used, "the package's __init__ imports nothing"
        return
    is_beside = room(path) in BESIDE and path.name == "__main__.py"
    here = floor(COMMANDS[0]) if is_beside else floor(room(path))
    for other in used - {room(path), "__version__"}:
        assert floor(other) < here, f"{path.name} imports {other}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_commands_know_hydra(path):
    used = {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    assert not used or path in CONFIGURED, f"{path.name} imports {used}: arguments, not settings, go down"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_one_room(path):
    assert len(path.read_text().splitlines()) <= 350, "two rooms: make it a package of the same name"


def test_the_readme_s_map_is_the_docstrings():
    first_lines = {path: (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0] for path in FILES}
    lines = {str(path.relative_to(ROOT)): line for path, line in first_lines.items()}
    assert all(line.endswith((".", "?")) for line in lines.values()), "each says something, in a sentence"
    said = dict(re.findall(r"^\| `(wavenet_ae/\S+\.py)` \| (.+?) \|$", (ROOT / "README.md").read_text(), re.M))
    rows = "\n".join(f"| `{path}` | {line} |" for path, line in lines.items())
    assert said == lines, f"the rows should be\n{rows}"
