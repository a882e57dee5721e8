"""Notes per second that `prepare` makes and that training reads, beside what coding and the disk allow.

    python -m benchmarks.corpus --notes 10000 --workers 0 2

Everything is made in a temporary folder: recordings of 20 s, which `prepare` cuts into notes of 4 s; programs of a
SoundFont, if there is one; then the notes are found, read whole and read in crops as training does. `bound` is what
FLAC or WAV itself takes in the same run, the same number of processes at it: coding in memory and a write that
reaches the disk, or decoding from memory. Starting processes is part of the time of a row with workers.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from benchmarks import record
from wavenet_ae import audio, files, notes
from wavenet_ae.prepare.build import build
from wavenet_ae.prepare.folder import Recordings
from wavenet_ae.prepare.soundfont import SoundFonts
from wavenet_ae.prepare.sources import Source

PIECES, SECONDS = 5, 4.0  # notes in a recording, and of each
BATCH, CROP, STEPS = 32, 6144, 300  # crops as the published recipe reads them
SAMPLED = 300  # notes that bounds are measured on
FONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")  # Debian: apt install fluid-soundfont-gm
COLUMNS = {
    "what": "", "format": "", "workers": "", "notes": ",d", "seconds": ".1f", "notes_per_s": ",.0f",
    "bound": ",.0f", "fraction": ".0%", "MB": ",.0f",
}  # fmt: skip


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=10_000, help="of the corpora made of recordings")
    parser.add_argument("--workers", nargs="+", default=["0", "2"], help="processes that share the work, or ray")
    parser.add_argument("--format", nargs="+", default=["flac", "wav"], choices=["flac", "wav"])
    parser.add_argument("--soundfont", type=Path, default=FONT, help="left out where it is not there")
    parser.add_argument("--folder", type=Path, default=None, help="a disk with 4 GB to spare; the temporary folder")
    parser.add_argument("--no-record", action="store_true", help="print only")
    asked = parser.parse_args()
    crews = [int(each) if each.isdigit() else each for each in asked.workers]
    load = record.load()
    rows: list[record.Row] = []
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        for row in measured(Path(scratch), asked, crews):
            rows.append(row)
            record.show([row], COLUMNS)
    print()
    record.show(rows, COLUMNS)
    record.load(ours=max(map(processes, crews)))
    if not asked.no_record:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}
        print(record.write("corpus", rows, {"load_average_at_the_start": load}, settings))


def measured(root: Path, asked: argparse.Namespace, crews: Sequence[int | str]) -> Iterator[record.Row]:
    """Every row."""
    recordings = root / "recordings"
    for number in range(-(-asked.notes // PIECES)):
        audio.write(recordings / f"tone{number}-{36 + number % 49}.wav", recording(number))
    for kind in asked.format:
        coding = coding_rate(root / "bound", kind)
        for crew in crews:
            made = prepared("recordings", of(recordings), root / f"{kind}-{crew}", kind, crew)
            yield bounded(made, coding * processes(crew))
        for crew in crews if asked.soundfont.is_file() else []:
            yield prepared("soundfont", of_font(asked.soundfont), root / f"font-{kind}-{crew}", kind, crew)
        yield from reading(root / f"{kind}-{crews[0]}", kind, [crew for crew in crews if isinstance(crew, int)])


def bounded(row: dict[str, Any], bound: float) -> record.Row:
    """The row beside what is possible."""
    return row | {"bound": bound, "fraction": row["notes_per_s"] / bound}


def recording(number: int) -> Tensor:
    """Five struck notes with overtones and some noise: neither silent nor hard to code."""
    generator = torch.Generator().manual_seed(number)
    time_s = torch.arange(round(SECONDS * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    hz = 440 * 2 ** ((36 + number % 49 - 69) / 12)
    tone = sum(torch.sin(2 * torch.pi * hz * k * time_s) / k for k in range(1, 6)) * torch.exp(-time_s)
    noise = torch.randn(PIECES, len(time_s), generator=generator) * torch.exp(-2 * time_s)
    return (0.2 * tone + 0.005 * noise).flatten()


def of(recordings: Path) -> Recordings:
    """Recordings that are cut in fixed lengths and named after their pitch."""
    return Recordings(
        input=str(recordings), out=None, pattern="INSTRUMENT-PITCH", csv=None, family="other", source="synthetic",
        pitch="measured", velocity=100, cut="fixed", length_s=SECONDS, silence_db=-60.0, pitch_tolerance=None,
    )  # fmt: skip


def of_font(path: Path) -> SoundFonts:
    """Forty programs, as conf/source/soundfont.yaml has them, with two velocities."""
    return SoundFonts(
        input=str(path), programs="0-39", pitches="36-84/4", velocities=[60, 110], keys="natural", hold_s=3.0,
        release_s=1.0, peak_db=-3.0, pitch_tolerance=50.0, silence_db=-60.0,
    )  # fmt: skip


def prepared(what: str, source: Source, out: Path, kind: str, crew: int | str) -> dict[str, Any]:
    """The row of one corpus made."""
    splits = {"train": 0.8, "valid": 0.1, "test": 0.1}
    given = {key: value for key, value in vars(source).items() if not key.startswith("_")}
    settings = {"source": given, "splits": splits, "seed": 0, "format": kind, "licence": None}
    start = time.perf_counter()
    failed = build(source, out, settings=settings, overwrite=False, workers=crew)
    took = time.perf_counter() - start
    assert not failed, failed
    count = sum(len(notes.read_examples(out / split)) for split in notes.splits(out))
    size = sum(path.stat().st_size for path in out.rglob(f"*.{kind}")) / 1e6
    return row(f"prepare, {what}", kind, crew, count, took) | {"MB": size}


def reading(out: Path, kind: str, crews: Sequence[int]) -> Iterator[record.Row]:
    """The rows of finding, reading whole and reading in crops."""
    start = time.perf_counter()
    found = notes.load(out, "train")
    yield row("find", kind, 0, len(found), time.perf_counter() - start)
    decoding = decoding_rate([note.path for note in found[:SAMPLED]])
    for note in found:
        forget(note.path)
    for what in ("read whole, not in memory", "read whole, again"):
        start = time.perf_counter()
        for note in found:
            audio.read(note.path)
        yield bounded(row(what, kind, 0, len(found), time.perf_counter() - start), decoding)
    for crew in crews:
        crops = notes.batches(found, batch=BATCH, crop=CROP, seed=0, workers=crew, steps=STEPS + 1)
        next(crops)  # processes are started
        start = time.perf_counter()
        for _ in crops:
            pass
        took = time.perf_counter() - start
        made = row(f"read {CROP:,} samples each", kind, crew, STEPS * BATCH, took)
        yield made | {"crop_samples_per_s": STEPS * BATCH * CROP / took}


def row(what: str, kind: str, crew: int | str, count: int, took: float) -> dict[str, Any]:
    """So many notes in so many seconds."""
    return {
        "what": what, "format": kind, "workers": str(crew), "notes": count, "seconds": took,
        "notes_per_s": count / took,
    }  # fmt: skip


def forget(path: Path) -> None:
    """Let the system forget what it holds of a file in memory, where it can be asked to."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def coding_rate(folder: Path, kind: str) -> float:
    """Notes a second that one process codes and brings to the disk, and nothing else."""
    waves = [wave.numpy() for number in range(SAMPLED // PIECES) for wave in recording(number).view(PIECES, -1)]

    def write() -> None:
        for number, wave in enumerate(waves):
            coded = io.BytesIO()
            soundfile.write(coded, wave, audio.SAMPLE_RATE, format=kind.upper(), subtype="PCM_16")
            with files.whole(folder / f"{number}.{kind}") as partial:
                partial.write_bytes(coded.getvalue())

    return len(waves) / record.measure(write, seconds=1)["median_s"]


def decoding_rate(paths: Sequence[Path]) -> float:
    """Notes a second that one process decodes from memory."""
    coded = [path.read_bytes() for path in paths]
    took = record.measure(lambda: [soundfile.read(io.BytesIO(each), dtype="float32") for each in coded], seconds=1)
    return len(coded) / took["median_s"]


def processes(crew: int | str) -> int:
    """How many are at work."""
    return max(1, crew) if isinstance(crew, int) else record.cores()


if __name__ == "__main__":
    main()
