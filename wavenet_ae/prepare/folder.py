"""Folders of recordings as a source of notes: any format soundfile reads, labels by name, csv or ear."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import soundfile
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio, files
from wavenet_ae.notes import labels
from wavenet_ae.prepare.cuts import pieces
from wavenet_ae.prepare.pitch import HIGHEST, measure
from wavenet_ae.prepare.sources import Fault, Instrument, Item, LeftOut, Plan, Sound, paths, quantity

CUTS = ("none", "fixed", "onsets")
_SHORTEST = 1600  # samples, 0.1 s: a shorter piece is no note

log = logging.getLogger("wavenet_ae")


@dataclass
class Recordings:
    """Audio files, labelled by `pattern` or `csv`, else by the defaults `family`, `source`, `pitch` and `velocity`.

    A file that nothing says the instrument of is an instrument of its own. `pitch` is a MIDI number or a note's
    name; `measured` takes what is heard, and 0 where no pitch is heard: 0 stands for none.
    """

    unit: ClassVar[str] = "file"
    input: str | int | list[str | int] | None
    out: str | int | None
    pattern: str | int | None
    csv: str | int | None
    family: str | int
    source: str | int
    pitch: str | int
    velocity: str | int
    cut: str
    length_s: str | float
    silence_db: str | float
    pitch_tolerance: str | float | None

    def __post_init__(self) -> None:
        given = paths(self.input, "recordings")
        self._read_settings()
        if self.cut not in CUTS:
            raise ValueError(f"unknown cut {self.cut!r}: choose one of {', '.join(CUTS)}")
        if self._length < _SHORTEST:
            raise ValueError(f"notes of {self.length_s} s are too short: expected length_s of 0.1 or more")
        if self.pattern is not None and self.csv is not None:
            raise ValueError("both source.pattern and source.csv are given: expected one of them to say what a file is")
        defaults = {"family": str(self.family), "source": str(self.source), "velocity": str(self.velocity)}
        self._defaults = labels.check(defaults | ({} if self.pitch == "measured" else {"pitch": str(self.pitch)}))
        self._taken, left = files.gather(given, audio.SUFFIXES, out=None if self.out is None else str(self.out))
        if left:
            kinds = ", ".join(sorted({path.suffix or path.name for path in left}))
            log.info("not taken, by their suffix: %d files (%s), as %s", len(left), kinds, left[0].name)
        self._root = Path(given[0]) if len(given) == 1 and Path(given[0]).is_dir() else Path()
        self._read = labels.by_pattern(str(self.pattern)) if self.pattern is not None else None
        self._said = False
        self._work: dict[str, list[tuple[Path, dict[str, Any]]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to make an item: all of it is planned."""
        return self.__dict__ | {"_read": None, "_taken": []}

    def _read_settings(self) -> None:
        """Numbers, which come as words where they are written wrongly."""
        self._length = round(quantity(self.length_s, "source.length_s") * audio.SAMPLE_RATE)
        self._silence_db = quantity(self.silence_db, "source.silence_db")
        cents = self.pitch_tolerance
        self._tolerance = None if cents is None else quantity(cents, "source.pitch_tolerance")

    def plan(self) -> Plan:
        """One item for each instrument, after a look at the header of each file."""
        failed: dict[str, str] = {}
        instruments: dict[Instrument, list[tuple[Path, dict[str, Any]]]] = {}
        for path, words in self._labelled(failed):
            try:
                label = self._defaults | labels.check(words() if callable(words) else words)
                audio.inspect(path)
            except (ValueError, OSError) as error:
                failed[str(path)] = str(error)
                continue
            name = str(label.get("instrument") or self._relative(path))
            instruments.setdefault(Instrument(name, str(label["family"]), str(label["source"])), []).append(
                (path, label)
            )
        items = []
        for instrument, work in instruments.items():
            name = f"{instrument.name} ({instrument.family}, {instrument.source})"
            self._work[name] = work
            stats = [
                (self._relative(path), path.stat().st_size, path.stat().st_mtime_ns, label) for path, label in work
            ]
            items.append(Item(name, len(work), stats, instrument))
        return Plan(items, failed)

    def make(self, item: Item) -> Iterator[Sound | LeftOut | Fault]:
        """The notes of an instrument, file by file."""
        gain = self._gain(item)
        for path, label in self._work[item.name]:
            try:
                wave = gain * audio.read(path)
            except (ValueError, OSError) as error:
                yield Fault(str(path), str(error))
                continue
            found = pieces(wave, cut=self.cut, length=self._length)
            for start, stop in found:
                made = self._note(wave[start:stop], label)
                where = f"{self._relative(path)} from {start / audio.SAMPLE_RATE:.2f} s"
                yield LeftOut(where, made) if isinstance(made, str) else made
            yield from self._cut_off(path, [*found, (len(wave), 0)])

    def _gain(self, item: Item) -> float:
        """One number for an instrument whose recordings, in floating point or resampled, would clip; else 1."""
        peak = 0.0
        for path, _ in self._work[item.name]:
            with contextlib.suppress(ValueError, OSError):  # said when its notes are made
                info = soundfile.info(path)
                if info.samplerate != audio.SAMPLE_RATE or not info.subtype.startswith("PCM"):
                    peak = max(peak, float(audio.read(path).abs().max()))
        if peak <= 1:
            return 1.0
        log.warning("%s peaks at %.2f of full scale: all its notes are made %.1f dB softer", item.name, peak, _db(peak))
        return 1 / peak

    def _cut_off(self, path: Path, found: list[tuple[int, int]]) -> Iterator[LeftOut]:
        """What lies between the pieces."""
        for (_, stop), (start, _) in itertools.pairwise(found):
            seconds = (start - stop) / audio.SAMPLE_RATE
            if start - stop < _SHORTEST:
                continue
            why = f"{seconds:.1f} s of a sound longer than source.length_s are cut off; source.cut=fixed keeps them"
            if not self._said:
                log.warning("%s: %s (said once; all such are in prepare.json)", path, why)
                self._said = True
            yield LeftOut(f"{self._relative(path)} from {stop / audio.SAMPLE_RATE:.2f} s", why)

    def made_by(self) -> dict[str, Any]:
        """The reader's version."""
        return {"libsndfile": soundfile.__libsndfile_version__}

    def _labelled(self, failed: dict[str, str]) -> Iterator[tuple[Path, Any]]:
        """Each file that is to be a note, with its words, or with a function that says them."""
        if self.csv is None:
            for path in self._taken:
                yield path, (lambda path=path: self._read(path)) if self._read else {}
            return
        at = Path(str(self.csv))
        table = labels.by_csv(at, self._root if self._root != Path() else at.parent)
        for path in sorted(table.keys() - set(self._taken)):
            failed[str(path)] = f"{at} names it, but it is {'not there' if not path.is_file() else self._why_not(path)}"
        unnamed = [path for path in self._taken if path not in table]
        if unnamed:
            log.info("left aside: %d files that %s does not name, as %s", len(unnamed), self.csv, unnamed[0].name)
        yield from ((path, table[path]) for path in self._taken if path in table)

    def _why_not(self, path: Path) -> str:
        if self.out is not None and Path(str(self.out)).resolve() in path.resolve().parents:
            return "not taken: it lies in out; choose another out"
        if path.suffix.lower() not in audio.SUFFIXES:
            return f"not taken (suffix {path.suffix or 'none'}): expected one of {' '.join(audio.SUFFIXES)}; convert it"
        return "not among source.input, or hidden: expected it there; add it"

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)

    def _note(self, wave: Float[Tensor, " samples"], label: dict[str, Any]) -> Sound | str:
        """The note, or why it is none."""
        if len(wave) < _SHORTEST:
            return f"short: {len(wave)} samples, expected at least {_SHORTEST}"
        level_db = 20 * float((wave.square().mean().sqrt() + 1e-12).log10())
        if level_db < self._silence_db:
            return f"silent: its level is {level_db:.0f} dB, expected at least {self._silence_db:.0f}"
        heard = measure(wave) if self._tolerance is not None or "pitch" not in label else None
        pitch = label.get("pitch", 0 if heard is None else min(max(round(heard), 0), 127))
        if (
            self._tolerance is not None
            and 0 < pitch <= HIGHEST
            and (heard is None or abs(heard - pitch) * 100 > self._tolerance)
        ):
            sounds = "no pitch was heard" if heard is None else f"it sounds at pitch {heard:.2f}"
            return f"{sounds}, expected {pitch} within {self._tolerance:.0f} cents"
        return Sound(wave, pitch, int(label["velocity"]))


def _db(ratio: float) -> float:
    return 20 * math.log10(ratio)
