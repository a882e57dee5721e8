"""What a job costs on this machine, measured by a short run, and whether memory and disk hold it."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from wavenet_ae.synthesis import Sampling, Sound, render

_FRAMES = 4  # of the short run: the first is not timed
_MARGIN = 2**26  # bytes left for everything else


class Cost(NamedTuple):
    """Samples to be made, seconds they take (None if a trial would take as long), and bytes of memory and disk."""

    samples: int
    seconds: float | None
    memory: int
    disk: int

    def __str__(self) -> str:
        time = "" if self.seconds is None else f"about {_duration(self.seconds)} here, "
        return f"{self.samples:,} samples to make, {time}{_size(self.memory)} of memory, {_size(self.disk)} of disk"


def estimate(decoder: torch.nn.Module, sounds: Sequence[Sound], sampling: Sampling, bytes_a_sample: int) -> Cost:
    """What `sounds` will cost: time from a few frames of as many voices, memory and disk by counting."""
    samples = sum(sound.samples for sound in sounds)
    numbers = sum(sound.embedding.numel() for sound in sounds)
    rounds = -(-len(sounds) // sampling.batch)
    voices = -(-len(sounds) // rounds)  # as `render` divides them
    memory = 8 * numbers + voices * max((sound.samples for sound in sounds), default=0) * 16
    seconds = (
        samples / _rate(decoder, sounds[:voices], sampling) if samples > 4 * voices * _FRAMES * _hop(decoder) else None
    )
    return Cost(samples, seconds, memory, bytes_a_sample * samples + 4 * numbers)


def check(cost: Cost, folder: Path) -> None:
    """Refuse what cannot fit.

    Raises:
        ValueError: the disk that `folder` is on, or the memory, does not hold it.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    for what, needed, free in (
        ("disk", cost.disk, shutil.disk_usage(there).free),
        ("memory", cost.memory, _free_memory()),
    ):
        if free is not None and needed + _MARGIN > free:
            raise ValueError(
                f"{_size(needed)} of {what} are needed, {_size(free)} are free: expected {_size(_MARGIN)} to spare; "
                "take fewer notes or steps, or free some"
            )


def _rate(decoder: torch.nn.Module, sounds: Sequence[Sound], sampling: Sampling) -> float:
    """Samples a second, of all these side by side."""
    short = [sound._replace(samples=min(sound.samples, _FRAMES * _hop(decoder))) for sound in sounds]
    told = []
    began = time.perf_counter()
    for _ in render(
        decoder, short, replace(sampling, batch=len(short)), lambda n: told.append((time.perf_counter(), n))
    ):
        pass
    if len(told) < 2:
        return sum(n for _, n in told) / (time.perf_counter() - began)
    return sum(n for _, n in told[1:]) / (told[-1][0] - told[0][0])


def _hop(decoder: torch.nn.Module) -> int:
    return int(decoder.hop)  # type: ignore[arg-type]


def _free_memory() -> int | None:
    """Bytes that programs may have yet; None where the system does not say."""
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo") as file:
            said = dict(line.split(":") for line in file)
        return max(free, 1024 * int(said["MemAvailable"].split()[0]))
    except (OSError, KeyError):
        return free


def _duration(seconds: float) -> str:
    unit, length = next((each for each in (("h", 3600), ("min", 60)) if seconds > 2 * each[1]), ("s", 1))
    return f"{seconds / length:.1f} {unit}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
