import json
import subprocess
import sys
import time
from pathlib import Path

import bundles
import pytest

from wavenet_ae import checkpoint, magenta

GOLDEN = Path(__file__).parent / "data" / "magenta_wavenet"
CHECKPOINT = GOLDEN / "model.ckpt-200000"


# The command as people run it, in a process of its own; one process runs many, since each would import torch.
RUNNER = """
import contextlib, io, json, os, sys
from wavenet_ae import convert
for line in sys.stdin:
    folder, arguments = json.loads(line)
    os.chdir(folder)
    sys.argv, status, said = ["convert", *arguments], 0, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            convert.main()
        except SystemExit as exit:
            status = exit.code
    print(json.dumps([status, said.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def runner():
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def run(runner, tmp_path):
    """Run the command in `tmp_path`: its exit status and what it said."""

    def run(*arguments):
        runner.stdin.write(json.dumps([str(tmp_path), arguments]) + "\n")
        runner.stdin.flush()
        return json.loads(runner.stdout.readline())

    return run


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_a_checkpoint_becomes_a_native_one(run, tmp_path, weights):
    out = tmp_path / "folder" / "nsynth.safetensors"
    status, said = run(f"input={CHECKPOINT}", f"out={out}", f"weights={weights}")
    assert status == 0, said
    model, expected = checkpoint.load(out), magenta.load(CHECKPOINT, weights)
    assert checkpoint.fingerprint(model) == checkpoint.fingerprint(expected)
    meta = checkpoint.describe(out)
    assert meta[1:] == (16_000, 512, 200_000, weights, "NSynth", "CC-BY-4.0")
    assert [file.name for file in out.parent.iterdir()] == [out.name]


def test_it_says_what_it_found_and_what_it_used(run, tmp_path):
    variables = bundles.variables(layers=2, width=6, skip_width=5, ae_width=4, embedding_dims=2)
    count = sum(variable.size for variable in variables.values())
    variables = bundles.training(variables)
    prefix = bundles.write(tmp_path / "model.ckpt-1234", variables)
    out = tmp_path / "a.safetensors"
    _, said = run(f"input={prefix}", f"out={out}", "trained_on=mine", "licence=CC0-1.0")
    used = 2 * (7 + 2 * 6)
    for line in (
        f"{prefix}: {4 * used + 3} variables, step 1,234",
        "encoder: layers 2, width 4, kernel_size 3, stages 10, embedding_dims 2, hop 512",
        "decoder: layers 2, width 6, skip_width 5, kernel_size 3, stages 10, embedding_dims 2, hop 512",
        f"used: {used} variables (raw), {count:,} parameters",
        f"left: {used} moving averages (ae_bottleneck/W/ExponentialMovingAverage, ",
        f"left: {2 * used + 2} optimizer slots (",
        "left: 1 counters (global_step)",
        f"wrote {out}: ",
    ):
        assert line in said
    assert checkpoint.describe(out)[-2:] == ("mine", "CC0-1.0")


def test_what_exists_is_not_overwritten_unasked(run, tmp_path):
    out = tmp_path / "nsynth.safetensors"
    out.write_bytes(b"precious")
    status, said = run(f"input={CHECKPOINT}", f"out={out}")
    assert status == 1
    assert f"{out} exists: give another name, or overwrite=true" in said
    assert out.read_bytes() == b"precious"
    assert run(f"input={CHECKPOINT}", f"out={out}", "overwrite=true")[0] == 0
    assert checkpoint.describe(out).step == 200_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing given for input, out: add input=... out=..."),
        (("input=nowhere/model.ckpt-1", "out=a.safetensors"), "no checkpoint nowhere/model.ckpt-1"),
        (
            (f"input={GOLDEN.parent / 'magenta_baseline'}", "out=a.safetensors", "weights=ema"),
            "keeps no moving averages",
        ),
        ((f"input={__file__}", "out=a.safetensors"), "is not a TensorFlow checkpoint"),
        ((f"input={CHECKPOINT}", "out=a.ckpt"), "out is a.ckpt: expected a name ending in .safetensors"),
        ((f"input={CHECKPOINT}", "out=a.safetensors", "weights=average"), "unknown weights 'average'"),
        ((f"input={CHECKPOINT}", "out=a.safetensors", "hop=0"), "hop is 0: expected at least 1"),
    ],
)
def test_a_refusal_says_why_and_leaves_nothing(run, tmp_path, arguments, message):
    status, said = run(*arguments)
    assert status == 1
    assert message in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_model_of_ours_is_stored_in_half_the_space(run, tmp_path):
    run(f"input={CHECKPOINT}", "out=whole.safetensors", "weights=ema")
    status, said = run("input=whole.safetensors", "out=half.safetensors", "stored=fp16")
    assert status == 0, said
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert checkpoint.describe(half) == checkpoint.describe(whole)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    exact, rounded = (dict(checkpoint.load(path).named_parameters()) for path in (whole, half))
    for name, weight in exact.items():
        assert (rounded[name] - weight).abs().max() <= 2**-11 * weight.abs().max()
    assert any((rounded[name] != weight).any() for name, weight in exact.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["licence=CC0"], "whole.safetensors says itself what it is: leave out licence=CC0"),
        (["stored=int4"], "stored is 'int4': expected fp16"),
    ],
)
def test_what_cannot_be_said_of_a_model_of_ours_is_refused(run, tmp_path, arguments, message):
    run(f"input={CHECKPOINT}", "out=whole.safetensors")
    status, said = run("input=whole.safetensors", "out=half.safetensors", *arguments)
    assert status == 1
    assert message in said
    assert not (tmp_path / "half.safetensors").exists()


def test_a_damaged_checkpoint_leaves_nothing(run, tmp_path):
    for file in GOLDEN.glob("model*"):
        (tmp_path / "in" / file.name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes())
    data = tmp_path / "in" / f"{CHECKPOINT.name}.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1  # in a moving average, or in what is used: one of the two conversions fails
    data.write_bytes(content)
    results = [
        run(f"input={tmp_path / 'in'}", f"out={tmp_path / name}.safetensors", f"weights={name}")
        for name in ("raw", "ema")
    ]
    assert sorted(status for status, _ in results) == [0, 1]
    assert sum("is damaged (wrong checksum): copy or download it again" in said for _, said in results) == 1
    assert len(list(tmp_path.glob("*"))) == 2


def test_help_shows_three_examples(run):
    status, said = run("--help")
    assert status == 0
    assert said.count("python -m wavenet_ae.convert input=") >= 3


MEASURED = """
import atexit, runpy
atexit.register(lambda: print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM")]))
runpy.run_module("wavenet_ae.convert", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the most memory a process ever used from Linux's /proc")
@pytest.mark.parametrize("kind", ["published", "training"])
def test_full_size_takes_less_than_1_2_gb(tmp_path, kind):
    """The published sizes: the weights alone (240 MB), and with averages and Adam's slots (1 GB)."""
    variables = bundles.variables()
    variables = bundles.training(variables) if kind == "training" else variables
    prefix = bundles.write(tmp_path / "in" / "model.ckpt-200000", variables, compress=bundles.literals)
    del variables
    out = tmp_path / "nsynth.safetensors"
    command = [sys.executable, "-c", MEASURED, f"input={prefix}", f"out={out}"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    seconds = time.perf_counter() - start
    assert not done.returncode, done.stderr
    gigabytes = int(done.stdout.split()[1]) * 1024 / 1e9
    print(f"{kind}: {seconds:.1f} s, {gigabytes:.2f} GB at most\n{done.stderr}")
    assert gigabytes < 1.2
    model = checkpoint.load(out)
    assert (model.decoder.receptive_field, model.encoder.context) == (6141, 3070)
