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
import copy
import importlib
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import record
from wavenet_ae import sampler
from wavenet_ae.models.wavenet import Decoder, Encoder, WaveNetAutoencoder
from wavenet_ae.sampler import batched, dice
from wavenet_ae.sampler.batched import plain

SAMPLE_RATE = 16_000
NSYNTH = {
    "layers": 30, "stages": 10, "width": 512, "skip_width": 256, "kernel_size": 3, "embedding_dims": 16, "hop": 512,
}  # fmt: skip
NARROW = NSYNTH | {"layers": 12, "stages": 6, "width": 64, "skip_width": 128, "hop": 64}
TINY = NSYNTH | {"layers": 5, "stages": 5, "width": 16, "skip_width": 16, "hop": 8}
MODELS = (("tiny", TINY), ("narrow", NARROW), ("nsynth", NSYNTH))
ENCODER = {"layers": 30, "stages": 10, "width": 128, "kernel_size": 3, "embedding_dims": 16, "hop": 512}
ENGINES, PRECISIONS = ("clusters", "cuda", "batched"), ("fp16", "int8", "bf16", "fp32")  # what matters most first
VOICES = {  # that are timed
    "cuda": (1, 2, 4, 8),
    "clusters": (1, 8, 16, 64, 128, 256, 512),
    "batched": (1, 8, 64, 128, 256, 512, 1024),
}
CHOIRS = (  # voices, and how they are dealt to clusters of blocks otherwise than by default
    (8, {"voices": 1}), (8, {"voices": 4}), (16, {"voices": 16}), (64, {"voices": 32}), (256, {"voices": 16}),
    (1, {"size": 8}), (8, {"size": 8}), (256, {"size": 8}), (8, {"pieces": 4}), (256, {"pieces": 4}),
    (8, {"window": 16}),
)  # fmt: skip
TRAINING = (32, 6144)
GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "magenta_wavenet"
LAST_START = 0.93  # of the time, after which no row begins
SHORT = 32  # samples in a run of an engine that takes milliseconds for each
GRADES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.bfloat16}
COLUMNS = {
    "section": "", "model": "", "engine": "", "precision": "", "batch": "d", "total": ",.0f", "real_time": ".2f",
    "bound": ",.0f", "fraction": ".0%", "to_eager": ".1f", "max_abs": ".2e", "to_magenta": ".1e", "to_plain": ".2f",
    "nll_change": "+.2%", "value": ".4g", "unit": "", "equal": "", "failed": "",
}  # fmt: skip


class Bench:
    """What is measured on, with which sizes, and what has been found so far."""

    def __init__(self, asked: argparse.Namespace, sections: Sequence[str]):
        self.asked, self.device, self.tiny = asked, torch.device(asked.device), asked.tiny
        self.end = time.perf_counter() + LAST_START * 60 * asked.minutes
        is_gpu = self.device.type == "cuda"
        self.name = torch.cuda.get_device_name(self.device) if is_gpu else record.cpu_model()
        self.rows: list[record.Row] = []
        self.missing = list(sections)  # that have not come to their end
        self.at: list[record.Row] = []  # what is being measured, the row last
        self.left_out: list[str] = []
        self.path: Path | None = None
        self.lock = threading.Lock()  # two threads may write
        self.rates: dict[str, float] = {}  # bytes and operations per second
        self.eager: dict[int, float] = {}  # samples per second of the readable engine, by voices
        self.sizes = TINY if asked.tiny else NSYNTH

    def found(self, **row: object) -> None:
        """Keep a row, and print it."""
        self.rows.append(row)
        record.show([row], {key: form for key, form in COLUMNS.items() if key in row})
        self.keep()

    def keep(self) -> None:
        """Write the record as it now is over what it was."""
        if self.asked.no_record:
            return
        settings = {key: str(value) for key, value in vars(self.asked).items()} | {"left_out": list(self.left_out)}
        gpu = self.name if self.device.type == "cuda" else None
        machine = {"gpu": gpu, "cuda": torch.version.cuda, **self.rates}
        with self.lock:
            self.path = record.write(
                "gpu", self.rows, machine, settings,
                hardware=self.name, folder=self.asked.out, path=self.path, missing=self.missing,
            )  # fmt: skip

    def leave_out(self, reason: str) -> None:
        """Say in the record too what cannot be measured here."""
        print(f"left out: {reason}")
        self.left_out.append(reason)

    def give_up(self) -> None:
        """The time is up: say what is not done."""
        for row in self.at[-1:]:
            self.found(**row, failed="TimeoutError: it was not done when the time was up")
        where = f": the rest is in {self.path}" if self.path else ""
        print(f"the time was up before {', '.join(self.missing)} came to an end{where}", file=sys.stderr, flush=True)

    @property
    def is_late(self) -> bool:
        """Whether the time is up, a little kept for the rest."""
        return time.perf_counter() > self.end

    def seconds(self, run: Callable[[], object], *, seconds: float = 2.0, warmups: int = 2) -> float:
        """The median of runs that wait for the device."""

        def waited() -> None:
            run()
            self.wait()

        return record.measure(waited, seconds=0.05 if self.tiny else seconds, warmups=warmups)["median_s"]

    def wait(self) -> None:
        """Until the device has done all it was asked to."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def decoder(self, dtype: torch.dtype = torch.float32, sizes: dict[str, int] | None = None) -> Decoder:
        """Random, but saying something: torch's initial weights make a decoder that says little."""
        torch.manual_seed(0)
        decoder = Decoder(**(sizes or self.sizes))
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.mul_(1.7)
        return decoder.to(self.device, dtype).eval()

    @cached_property
    def engines(self) -> list[tuple[str, str]]:
        """Those made for this device, with each of their precisions, what matters most first."""
        found = []
        for precision, engine in itertools.product(self.asked.precision, self.asked.engine):
            try:
                sampler.open_voices(self.decoder(sizes=TINY), 1, engine=engine, precision=precision)
                found.append((engine, precision))
            except ValueError as reason:
                self.leave_out(f"{engine} {precision}: {reason}")
        return found

    @contextmanager
    def guard(self, **row: object) -> Iterator[None]:
        """What fails in here becomes a row, and the rest goes on."""
        began = time.perf_counter()
        self.at.append(row)
        try:
            if self.is_late:
                raise TimeoutError("the time was up before it began")
            yield
        except Exception as error:
            traceback.print_exc()
            self.found(**row, failed=f"{type(error).__name__}: {error}"[:200])
        self.at.pop()
        print(f"{time.perf_counter() - began:.1f} s", flush=True)


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


class Case(NamedTuple):
    """A decoder and what it hears, and Magenta's own probabilities of some of the samples."""

    model: str
    decoder: Decoder
    code: Tensor
    told: Tensor
    golden: Sequence[tuple[slice, Tensor]] = ()


def check_parity(bench: Bench) -> None:
    """Teacher-forced log-probabilities against the float64 decoder, beside plain torch in the same format."""
    for case in _cases(bench):
        with torch.inference_mode():
            expected = copy.deepcopy(case.decoder).double()(case.code, case.told).log_softmax(1)
        for engine, precision in [*bench.engines, ("cached", "fp32")]:
            with bench.guard(section="parity", model=case.model, engine=engine, precision=precision):
                _compare(bench, case, expected, engine, precision)


def _cases(bench: Bench) -> Iterator[Case]:
    for model, sizes in MODELS[: 1 if bench.tiny else 3]:
        code = torch.randint(256, (2, 2 * sizes["hop"]), device=bench.device)
        told = torch.randn(2, sizes["embedding_dims"], 2, dtype=torch.float64, device=bench.device)
        yield Case(model, bench.decoder(sizes=sizes), code, told)
    try:
        magenta = importlib.import_module("wavenet_ae.magenta")
    except ModuleNotFoundError as error:
        bench.leave_out(f"parity of magenta: it needs the package {error.name}")
        return
    if not GOLDEN.exists():
        bench.leave_out(f"parity of magenta: there is no {GOLDEN}")
        return
    decoder = magenta.load(GOLDEN / "model.ckpt-200000").decoder.to(bench.device)
    with np.load(GOLDEN / "golden.npz") as arrays:
        held = {name: torch.from_numpy(arrays[name]).to(bench.device) for name in arrays}
    frames = held["encoding"].shape[1]
    if bench.tiny:
        frames, decoder.hop = 1, 32  # the beginning of the first
    code = held["quantized"].long()[:, : frames * decoder.hop] + 128
    fast, full = held["fast_probabilities"][:, : code.shape[1]], held["full_probabilities"]
    golden = [(slice(fast.shape[1]), fast), (slice(-full.shape[1], None), full)][: 1 if bench.tiny else 2]
    yield Case("magenta", decoder, code, held["encoding"][:, :frames].transpose(1, 2).double(), golden)


def _compare(bench: Bench, case: Case, expected: Tensor, engine: str, precision: str) -> None:
    code, told = case.code, case.told
    usual = copy.deepcopy(case.decoder).to(GRADES[precision])
    with torch.inference_mode():
        usual_p = usual(code, told.to(GRADES[precision])).double().log_softmax(1)
    voices = sampler.open_voices(case.decoder, len(code), engine=engine, precision=precision)
    log_p = voices.score(told.float(), code).double()
    apart, nll, probability = (log_p - expected).abs(), _nll(expected, code), log_p.exp().transpose(1, 2)
    golden = [(probability[:, when] - theirs).abs().max().item() for when, theirs in case.golden]
    bench.found(
        section="parity", model=case.model, engine=engine, precision=precision, max_abs=apart.max().item(),
        mean_abs=apart.mean().item(), to_plain=(apart.mean() / (usual_p - expected).abs().mean()).item(),
        nll_change=(_nll(log_p, code) - nll) / nll, **({"to_magenta": max(golden)} if golden else {}),
    )  # fmt: skip


def check_voices(bench: Bench) -> None:
    """The same dice give the same codes, whatever the number of voices and the chunks."""
    decoder = bench.decoder()
    for engine, precision in bench.engines:
        row = {"section": "voices", "engine": engine, "precision": precision}
        with bench.guard(**row):
            most = 3 if bench.tiny else 8 if engine == "cuda" else 200
            told = torch.randn(most, decoder.embedding_dims, 3, device=bench.device)
            die = torch.stack([dice.throw(0, note, 0, 3 * decoder.hop) for note in range(most)])
            together = _open(decoder, most, engine, precision).generate(told, die)
            for voices in (1, most // 2):
                some = _open(decoder, voices, engine, precision)
                parts = [some.generate(told[:voices, :, :1], die[:voices, : decoder.hop])]
                parts.append(some.generate(told[:voices, :, 1:], die[:voices, decoder.hop :]))
                alike = (torch.cat(parts, dim=-1) == together[:voices]).double().mean().item()
                bench.found(**row, batch=voices, value=alike, unit="of codes alike", equal=str(alike == 1))


def time_baselines(bench: Bench) -> None:
    """Readable torch, and the batched engine's steps in plain torch as a CUDA graph."""
    short = bench.decoder(sizes=bench.sizes | {"hop": 8 if bench.tiny else SHORT})
    for voices in (1, 3) if bench.tiny else (1, 8, 256):
        bench.eager[voices] = _speed(bench, short, voices, _open(short, voices, "cached", "fp32"))
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
        for voices in (1, 3) if bench.tiny else VOICES[engine]:
            row = {"section": "generation", "engine": engine, "precision": precision, "batch": voices}
            with bench.guard(**row):
                total = _speed(bench, decoder, voices, _open(decoder, voices, engine, precision))
                bound = _bound(bench, decoder, voices, precision)
                base = {"to_eager": total / bench.eager[voices]} if voices in bench.eager else {}
                real_time = total / voices / SAMPLE_RATE
                bench.found(**row, total=total, real_time=real_time, bound=bound, fraction=total / bound, **base)


def time_parts(bench: Bench) -> None:
    """What a step of a kernel that stays takes to exchange without products, and to multiply without waiting."""
    decoder = bench.decoder()
    parts = {"exchange only": {"MULTIPLIES": 0}, "no exchange": {"WAITS": 0}}
    wanted = {"cuda": (1, 8), "clusters": (1, 8, 256)}
    for engine, precision in bench.engines:
        for voices, (name, changed) in itertools.product(wanted.get(engine, ()), parts.items()):
            row = {"section": "parts", "engine": f"{engine}, {name}", "precision": precision, "batch": voices}
            with bench.guard(**row):
                machine = _kernels("cuda").device.Gpu(decoder.start.weight.device, changed)
                opened = _kernels(engine).Voices(decoder, voices, precision=precision, machine=machine)
                total = _speed(bench, decoder, voices, opened)
                bench.found(**row, total=total, value=1e6 * voices / total, unit="us a step")


def time_choirs(bench: Bench) -> None:
    """The engine `clusters` with its voices and blocks dealt otherwise."""
    decoder = bench.decoder()
    for engine, precision in bench.engines:
        for voices, changed in CHOIRS if engine == "clusters" and precision in ("fp16", "int8") else ():
            row = {"section": "choirs", "engine": f"{engine}, {changed}", "precision": precision, "batch": voices}
            with bench.guard(**row):
                opened = _kernels(engine).Voices(decoder, voices, precision=precision, changed=changed)
                total = _speed(bench, decoder, voices, opened)
                bench.found(**row, total=total, value=opened.plan.choirs, unit="choirs")


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
    time_choirs, time_compiled,
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


def _open(decoder: Decoder, voices: int, engine: str, precision: str) -> sampler.Voices:
    return sampler.open_voices(decoder, voices, engine=engine, precision=precision)


def _speed(bench: Bench, decoder: Decoder, voices: int, opened: sampler.Voices) -> float:
    told = torch.randn(voices, decoder.embedding_dims, 1, device=bench.device)
    die = torch.rand(voices, decoder.hop, dtype=torch.float64)
    return voices * decoder.hop / bench.seconds(lambda: opened.generate(told, die), seconds=1.5)


def _bound(bench: Bench, decoder: Decoder, voices: int, precision: str) -> float:
    """Samples a second: each weight read once a step and each remembered input once a tap; or all operations.

    Operations are at the bf16 rate whatever the precision, which flatters no one.
    """
    size = {"fp32": 4, "int8": 1}.get(precision, 2)
    weights = sum(m.weight.numel() for m in decoder.modules() if isinstance(m, torch.nn.Conv1d))
    taps, width = decoder.start.kernel_size[0], decoder.start.out_channels
    moved = size * (weights + voices * len(decoder.blocks) * taps * width)
    return min(voices * bench.rates["read"] / moved, bench.rates["bf16"] / (2 * weights))


def _nll(log_p: Tensor, code: Tensor) -> float:
    return -log_p.gather(1, code.unsqueeze(1)).mean().item()


if __name__ == "__main__":
    main()
