"""Everything that is to be measured on a GPU, in one command and one record.

    python -m benchmarks.gpu                    # on a bare CUDA machine; ends by itself before 8 minutes
    python -m benchmarks.gpu --device cpu --tiny --no-record      # does the script itself run?

Needs torch, numpy and jaxtyping (pure Python), Triton as torch's wheel brings it, and cuda-bindings for the
engine `cuda`; no hydra, no soundfile, nothing to download, and numba only to read Magenta's golden data. Weights
are random: speed does not depend on them. Each section and row is guarded, so that a failure in one does not lose
the others, and each figure stands beside a bound measured in the same run. The record is written anew after
every row and names what it does not hold yet; a row that hangs is ended, with the process, at `--minutes`. The
summary comes last, and the status is 0 if nothing failed and nothing is missing.
"""

import argparse
import importlib
import itertools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F

from benchmarks import record
from benchmarks.bench import COLUMNS, Bench, open_voices
from benchmarks.parity import check_parity, check_voices
from wavenet_ae import sampler
from wavenet_ae.models.wavenet import Decoder, Encoder, WaveNetAutoencoder
from wavenet_ae.sampler import batched
from wavenet_ae.sampler.batched import plain

SAMPLE_RATE = 16_000
ENCODER = {"layers": 30, "stages": 10, "width": 128, "kernel_size": 3, "embedding_dims": 16, "hop": 512}
ENGINES, PRECISIONS = ("cuda", "batched", "clusters"), ("fp16", "int8", "bf16", "fp32")  # what matters most first
VOICES = {  # that are timed
    "cuda": (1, 2, 4, 8),
    "clusters": (1, 8, 64, 256),
    "batched": (1, 8, 64, 256, 1024),
}
VARIANTS = {  # voices, and sizes otherwise than by default
    "cuda": (
        (1, {"kept": 4}), (1, {"kept": 6}), (1, {"kept": 8}), (1, {"kept": 10}), (8, {"kept": 8}),
        (1, {"remembering": 3}), (8, {"remembering": 3}), (1, {"hearing": 2}), (8, {"window": 1}),
    ),
    "clusters": (
        (8, {"voices": 1}), (8, {"voices": 4}), (64, {"voices": 32}), (256, {"voices": 16}), (256, {"size": 8}),
        (256, {"gathers": 1}), (8, {"gathers": 1}), (8, {"pieces": 4}), (8, {"window": 16}),
    ),
}  # fmt: skip
TRAINING = (32, 6144)
SHORT = 32  # samples in a run of an engine that takes milliseconds for each


def measure_bounds(bench: Bench) -> None:
    """How fast memory is read and bf16 matrices are multiplied; random numbers, since zeros run faster."""
    size = 1 << (20 if bench.tiny else 30)
    words = torch.randint(0, 1 << 30, (size // 4,), dtype=torch.int32, device=bench.device)
    bench.rates["read"] = size / bench.seconds(lambda: words.max())
    bench.found(section="bounds", engine="read", value=bench.rates["read"] / 1e9, unit="GB/s")
    side = 256 if bench.tiny else 8192
    left, right = (torch.randn(side, side, device=bench.device).bfloat16() for _ in range(2))
    bench.rates["bf16"] = 2 * side**3 / bench.seconds(lambda: left @ right)
    bench.found(section="bounds", engine="bf16 products", value=bench.rates["bf16"] / 1e12, unit="TFLOP/s")


def time_baselines(bench: Bench) -> None:
    """Readable torch, and the batched engine's steps in plain torch as a CUDA graph."""
    short = bench.decoder(sizes=bench.sizes | {"hop": 8 if bench.tiny else SHORT})
    for voices in (1, 3) if bench.tiny else (1, 8, 256):
        bench.eager[voices] = _speed(bench, short, voices, open_voices(short, voices, "cached", "fp32"))
        row = {"section": "baseline", "precision": "fp32", "batch": voices}
        bench.found(**row, engine="torch eager", total=bench.eager[voices])
    _time_steps(bench, "torch CUDA graph", plain)


def time_compiled(bench: Bench) -> None:
    """The same steps, compiled by torch.compile: last, since that alone may take a minute."""
    if not bench.tiny:
        names = ("opening", "recall", "gate", "spread", "dense", "draw")
        steps = SimpleNamespace(**{name: torch.compile(getattr(plain, name)) for name in names})
        _time_steps(bench, "torch.compile, CUDA graph", steps)


def _time_steps(bench: Bench, engine: str, steps: object) -> None:
    decoder = bench.decoder(sizes=bench.sizes | {"hop": 8 if bench.tiny else SHORT})
    for precision, voices in itertools.product(("bf16", "fp32"), (1,) if bench.tiny else (1, 256)):
        row = {"section": "baseline", "engine": engine, "precision": precision, "batch": voices}
        with bench.guard(**row):
            opened = batched.Voices(decoder, voices, precision=precision)
            opened.steps = steps  # type: ignore[assignment]
            bench.found(**row, total=_speed(bench, decoder, voices, opened))


def time_generation(bench: Bench) -> None:
    """Samples per second of all voices together."""
    decoder = bench.decoder()
    for engine, precision in bench.engines:
        if precision == "bf16" and "fp16" in bench.asked.precision and not bench.tiny:
            continue  # as fast as the other 16 bits
        for voices in (1, 3) if bench.tiny else VOICES[engine]:
            row = {"section": "generation", "engine": engine, "precision": precision, "batch": voices}
            with bench.guard(**row):
                opened = open_voices(decoder, voices, engine, precision)
                total = _speed(bench, decoder, voices, opened)
                bound = _bound(bench, decoder, voices, precision)
                base = {"to_eager": total / bench.eager[voices]} if voices in bench.eager else {}
                real_time = total / voices / SAMPLE_RATE
                found = {"total": total, "real_time": real_time, "bound": bound, "fraction": total / bound}
                bench.found(**row, **found, **base, **_choirs(opened))


def time_parts(bench: Bench) -> None:
    """A step of a kernel that stays: without products, without waiting for others, and with a draw from a nucleus."""
    decoder = bench.decoder()
    parts = {"exchange only": {"MULTIPLIES": 0}, "no exchange": {"WAITS": 0}, "top_p=0.95": {}}
    wanted = {("cuda", "fp16"): (1, 8), ("clusters", "fp16"): (8, 256)}
    for engine, precision in bench.engines:
        for voices, (name, changed) in itertools.product(wanted.get((engine, precision), ()), parts.items()):
            row = {"section": "parts", "engine": f"{engine}, {name}", "precision": precision, "batch": voices}
            with bench.guard(**row):
                machine = _kernels("cuda").device.Gpu(decoder.start.weight.device, changed)
                opened = _kernels(engine).Voices(decoder, voices, precision=precision, machine=machine)
                total = _speed(bench, decoder, voices, opened, top_p=1.0 if changed else 0.95)
                bench.found(**row, total=total, value=1e6 * voices / total, unit="us a step")


def time_variants(bench: Bench) -> None:
    """Kernels that stay, with other sizes: how work is dealt out, and which weights stay where."""
    decoder = bench.decoder()
    for engine, precision in bench.engines:
        for voices, changed in VARIANTS.get(engine, ()) if precision == "fp16" else ():
            row = {"section": "variants", "engine": f"{engine}, {changed}", "precision": precision, "batch": voices}
            with bench.guard(**row):
                opened = _kernels(engine).Voices(decoder, voices, precision=precision, changed=changed)
                total = _speed(bench, decoder, voices, opened)
                bench.found(**row, total=total, **_choirs(opened))


def time_training(bench: Bench) -> None:
    """A step of the published model in bf16 autocast, against the matrix rate."""
    batch, crop = (2, 64) if bench.tiny else TRAINING
    sizes: dict[str, int] = ENCODER | ({"layers": 5, "stages": 5, "width": 8, "hop": 8} if bench.tiny else {})
    torch.manual_seed(0)
    decoder = Decoder(**bench.sizes)
    model = WaveNetAutoencoder(encoder=Encoder(**sizes), decoder=decoder, pitch_conditioning=False).to(bench.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    code = torch.randint(256, (batch, crop), device=bench.device)

    def step() -> None:
        with torch.autocast(bench.device.type, dtype=torch.bfloat16):
            logits = model(code)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), code).backward()
        optimizer.step()

    seconds = bench.seconds(step, seconds=8)
    once_a_frame = {decoder.out_condition, *(block.condition for block in decoder.blocks)}
    convolutions = (m for m in model.modules() if isinstance(m, torch.nn.Conv1d) and m not in once_a_frame)
    each = 6 * sum(m.weight.numel() for m in convolutions)  # a sample's forward, and twice as much backward
    bound = bench.rates["bf16"] / each
    bench.found(
        section="training", engine=f"{batch} x {crop}", precision="bf16", total=batch * crop / seconds,
        value=seconds, unit="s a step", bound=bound, fraction=batch * crop / seconds / bound,
    )  # fmt: skip


SECTIONS = (
    measure_bounds, check_parity, time_baselines, time_generation, time_training, check_voices, time_parts,
    time_variants, time_compiled,
)  # fmt: skip


def main() -> None:
    """Every section that was asked for, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for which the figures mean nothing")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which it ends, whatever hangs")
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=ENGINES, help="left out otherwise")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--only", nargs="+", choices=[section.__name__ for section in SECTIONS])
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder of the record")
    parser.add_argument("--no-record", action="store_true", help="print only")
    asked = parser.parse_args()
    sections = [each for each in SECTIONS if not asked.only or each.__name__ in (*asked.only, "measure_bounds")]
    bench = Bench(asked, [section.__name__ for section in sections])
    torch.backends.cudnn.allow_tf32 = False  # plain torch, to be compared with, is to compute in the format it says
    with record.deadline(60 * asked.minutes, bench.give_up):
        for section in sections:
            print(f"\n{section.__name__}: {section.__doc__}")
            with bench.guard(section=section.__name__):
                section(bench)
                bench.missing.remove(section.__name__)
            bench.keep()
    print(f"\n{bench.path or 'no record'}")
    print(f"\n{bench.name}: samples a second of all voices; bound and fraction of the lower of bytes and operations")
    record.show(bench.rows, {key: form for key, form in COLUMNS.items() if any(key in row for row in bench.rows)})
    if failed := sum("failed" in row for row in bench.rows):
        sys.exit(f"rows that failed: {failed}")


def _kernels(engine: str) -> ModuleType:
    """An engine's own module, which needs more than the rest."""
    return importlib.import_module(f"wavenet_ae.sampler.{engine}")


def _choirs(opened: sampler.Voices) -> dict[str, object]:
    """To how many clusters of blocks the voices were dealt, if they were: it depends on the GPU."""
    plan = getattr(opened, "plan", None)
    choirs, voices = (getattr(plan, name, 0) for name in ("choirs", "voices"))
    return {"value": choirs, "unit": f"choirs of {voices}"} if choirs else {}


def _speed(bench: Bench, decoder: Decoder, voices: int, opened: sampler.Voices, top_p: float = 1.0) -> float:
    told = torch.randn(voices, decoder.embedding_dims, 1, device=bench.device)
    die = torch.rand(voices, decoder.hop, dtype=torch.float64)
    return voices * decoder.hop / bench.seconds(lambda: opened.generate(told, die, 1.0, top_p), seconds=1.0)


def _bound(bench: Bench, decoder: Decoder, voices: int, precision: str) -> float:
    """Samples a second: each weight read once a step and each remembered input once a tap; or all operations.

    Operations are at the bf16 rate whatever the precision, which flatters no one.
    """
    size = {"fp32": 4, "int8": 1}.get(precision, 2)
    weights = sum(m.weight.numel() for m in decoder.modules() if isinstance(m, torch.nn.Conv1d))
    taps, width = decoder.start.kernel_size[0], decoder.start.out_channels
    moved = size * (weights + voices * len(decoder.blocks) * taps * width)
    return min(voices * bench.rates["read"] / moved, bench.rates["bf16"] / (2 * weights))


if __name__ == "__main__":
    main()
