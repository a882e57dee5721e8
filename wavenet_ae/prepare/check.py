"""The faults of a corpus: what is missing, unreadable, silent, clipped, of another length or out of tune."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from wavenet_ae import audio, notes
from wavenet_ae.prepare.pitch import HIGHEST, measure
from wavenet_ae.prepare.sources import OCTAVES

_SILENT_DB = -60.0  # rms of the whole note
_FULL = 0.9999  # of full scale
_RUN = 3  # samples in a row at full scale are no peak of a wave any more
_USUAL = 0.9  # of all notes must have one length before another is a fault


def check(root: str | Path, *, cents: float | None) -> dict[tuple[str, str], str]:
    """Every fault found, by (split, note); a pitch may be `cents` from the label, None leaves pitches out.

    The note is empty where the fault is a split's, and `audio/<file>` where a file belongs to no note. An organ may
    sound whole octaves from its label; a note labelled 0 or above 110, or without audible pitch, is not judged.

    Raises:
        FileNotFoundError: there is no corpus.
    """
    faults: dict[tuple[str, str], str] = {}
    tables = _tables(Path(root), faults)
    samples: dict[tuple[str, str], int] = {}
    with tqdm(total=sum(len(table) for _, table in tables.values()), unit="note", desc="check") as bar:
        for split, (folder, table) in tables.items():
            there = notes.audio_files(folder) if (folder / "audio").is_dir() else {}
            for name, entry in table.items():
                wave, why = _read(there.get(name), entry)
                if wave is not None:
                    samples[split, name] = len(wave)
                    why = _unsound(wave) or (_out_of_tune(wave, entry, cents) if cents is not None else None)
                if why:
                    faults[split, name] = why
                bar.update()
            for name in sorted(there.keys() - table.keys()):
                faults[split, f"audio/{there[name].name}"] = "it is not in examples.json"
    return _odd_lengths(samples) | faults


def _tables(root: Path, faults: dict[tuple[str, str], str]) -> dict[str, tuple[Path, dict[str, dict[str, Any]]]]:
    names = notes.splits(root)
    if not names:
        notes.find_split(root, "train")  # says what is wrong with the folder
    tables = {}
    for split in names:
        folder = notes.find_split(root, split)
        try:
            tables[split] = folder, notes.read_examples(folder)
        except ValueError as error:
            faults[split, ""] = str(error)
    played = {split: {entry["instrument_str"] for entry in table.values()} for split, (_, table) in tables.items()}
    for first, second in [("train", split) for split in sorted(played) if split != "train" and "train" in played]:
        if shared := sorted(played[first] & played[second]):
            faults[f"{first} and {second}", ""] = f"they share {len(shared)} instruments, as {shared[0]}; expected none"
    return tables


def _read(path: Path | None, entry: Mapping[str, Any]) -> tuple[Float[Tensor, " samples"] | None, str | None]:
    """A note's wave, or why there is none."""
    if path is None:
        return None, "missing: expected audio/<note_str>.wav or .flac"
    try:
        info = audio.inspect(path)
        if info.rate != audio.SAMPLE_RATE or info.channels != 1 or entry["sample_rate"] != audio.SAMPLE_RATE:
            rate = info.rate if info.rate != audio.SAMPLE_RATE else entry["sample_rate"]
            return None, f"wrong rate: {info.channels} channels at {rate} Hz, expected one at {audio.SAMPLE_RATE}"
        return audio.read(path), None
    except (ValueError, OSError) as error:
        return None, f"unreadable: {error}"


def _unsound(wave: Float[Tensor, " samples"]) -> str | None:
    level_db = 20 * float((wave.square().mean().sqrt() + 1e-12).log10())
    if level_db < _SILENT_DB:
        return f"silent: its level is {level_db:.0f} dB, expected at least {_SILENT_DB:.0f}"
    full = np.concatenate([[False], (wave.abs() >= _FULL).numpy(), [False]])
    edges = np.flatnonzero(full[1:] != full[:-1])
    longest = int((edges[1::2] - edges[::2]).max(initial=0))
    return f"clipped: {longest} samples in a row at full scale, expected fewer than {_RUN}" if longest >= _RUN else None


def _out_of_tune(wave: Float[Tensor, " samples"], entry: Mapping[str, Any], cents: float) -> str | None:
    heard = measure(wave) if 0 < entry["pitch"] <= HIGHEST else None
    if heard is None:
        return None
    octaves = OCTAVES if entry["instrument_family_str"] == "organ" else (0,)
    off = min((heard - entry["pitch"] - octave for octave in octaves), key=abs)
    return f"pitch off: it sounds at {heard:.2f}, expected {entry['pitch']}" if abs(off) * 100 > cents else None


def _odd_lengths(samples: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], str]:
    if not samples:
        return {}
    usual, count = Counter(samples.values()).most_common(1)[0]
    if count < _USUAL * len(samples):
        return {}
    return {
        name: f"wrong length: {length} samples, expected {usual} as {count} others have"
        for name, length in samples.items()
        if length != usual
    }
