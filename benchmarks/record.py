"""The one harness: repeat, time, print a table, and write a record that says what was measured and where."""

import faulthandler
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "numba", "llvmlite", "triton", "cuda-bindings")
Row = dict[str, object]


def measure(run: Callable[[], object], *, seconds: float, warmups: int = 1) -> dict[str, float]:
    """Seconds per run, over as many runs as fit `seconds` (three at least), after `warmups` untimed."""
    for _ in range(warmups):
        run()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return {"fastest_s": min(took), "median_s": statistics.median(took), "slowest_s": max(took), "runs": len(took)}


def show(rows: Sequence[Row], columns: dict[str, str]) -> None:
    """Print rows as a table; `columns` gives each column's key and format."""
    cells = [list(columns)] + [
        [format(row[key], form) if key in row else "" for key, form in columns.items()] for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def write(
    theme: str,
    rows: Sequence[Row],
    machine: Mapping[str, object],
    settings: Mapping[str, object],
    *,
    hardware: str | None = None,
    folder: Path = RESULTS,
    path: Path | None = None,
    missing: Sequence[str] = (),
) -> Path:
    """Write <folder>/<theme>_<hardware>_<date>.json, a number added if there is one already, and return its path.

    The hardware is the processor and how many of its cores may be used, if nothing else is named. With `path`
    that record is replaced in one step: a run that is killed leaves a whole one. `missing` is what it does not hold.
    """
    named = re.sub(r"[^a-z0-9]+", "-", (hardware or cpu_model()).lower()).strip("-")
    named += "" if hardware else f"-{cores()}-cores"
    record: dict[str, object] = {
        "theme": theme,
        "date": date.today().isoformat(),
        "commit": _git("describe", "--always", "--dirty") or "unknown",
        "command": "python -m " + " ".join([f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"cpu": cpu_model(), "cores": cores(), "load_average_at_the_end": list(os.getloadavg()), **machine},
        "settings": settings,
        **({"missing": list(missing)} if missing else {}),
        "rows": list(rows),
    }
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{theme}_{named}_{record['date']}{mark}.json" for mark in ("", *(f"_{n}" for n in range(2, 100))))
    path = path or next(folder / name for name in names if not (folder / name).exists())
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(path)
    return path


@contextmanager
def deadline(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """End the process with status 1 when the time is up, whatever hangs in here; `give_up` is called before."""

    def end() -> None:
        try:
            give_up()
        finally:
            sys.stdout.flush()
            os._exit(1)  # nothing else ends a thread that waits for a device

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(1.05 * seconds, exit=True)  # should what hangs let no other thread run
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()


def cores() -> int:
    """How many cores this process may use, as the CPU engine counts them; all of them where it cannot be imported."""
    try:
        from wavenet_ae.sampler import cpu
    except ModuleNotFoundError:  # a bare GPU machine may lack numba
        return os.cpu_count() or 1
    return cpu.cores()


def cpu_model() -> str:
    """What the processor calls itself, with its generation where the name does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", text, re.MULTILINE))
    return (
        f"{fields.get('model name', platform.machine())} family {fields.get('cpu family')} model {fields.get('model')}"
    )


def load(ours: int = 0) -> float:
    """Print the last minute's load average, and a warning if more than one of it is not our own threads'."""
    average = os.getloadavg()[0]
    print(f"load average {average:.2f}" + (f", of which up to {ours} our own" if ours else ""))
    if average - ours > 1:
        print("WARNING: this machine is busy with other things: its figures mean little")
    return average


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@functools.cache  # of when the run began, and asked once, however often it is written
def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip()
