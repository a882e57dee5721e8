"""What a GPU is measured by: a decoder, the engines there are, and the rows found so far, kept in a record."""

import argparse
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch

from benchmarks import record
from wavenet_ae import sampler
from wavenet_ae.models.wavenet import Decoder

NSYNTH = {
    "layers": 30, "stages": 10, "width": 512, "skip_width": 256, "kernel_size": 3, "embedding_dims": 16, "hop": 512,
}  # fmt: skip
TINY = NSYNTH | {"layers": 5, "stages": 5, "width": 16, "skip_width": 16, "hop": 8}
LAST_START = 0.93  # of the time, after which no row begins
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

    def check_alive(self) -> None:
        """End the process if the device does nothing more for it: after a fault in a kernel all else would fail too."""
        try:
            self.wait()
        except RuntimeError as error:
            sys.exit(
                f"the GPU has given this process up ({error}): not measured are {', '.join(self.missing)}; "
                f"what was found is in {self.path or 'no record'}. Run the others alone, with --engine and --only"
            )

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
            except (ValueError, RuntimeError) as reason:
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
            self.check_alive()
        self.at.pop()
        print(f"{time.perf_counter() - began:.1f} s", flush=True)


def open_voices(decoder: Decoder, voices: int, engine: str, precision: str) -> sampler.Voices:
    """Voices of just this engine and precision."""
    return sampler.open_voices(decoder, voices, engine=engine, precision=precision)
