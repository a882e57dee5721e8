"""What is written beside the mixes: the manifest, the page with its pad, the sheet of rainbowgrams; and loudness."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio, figures, files, page
from wavenet_ae.interpolate.plan import CORNERS, Cell

_SILENT_DB = -90.0  # a mix below is left as it is


def loudness(wave: Float[Tensor, " samples"]) -> float:
    """The root mean square in dB; 0 is a square wave at full scale, and nothing is below -120."""
    return 10 * torch.log10(wave.double().square().mean().clamp_min(1e-12)).item()


def levelled(
    wave: Float[Tensor, " samples"], weights: Sequence[float], sounds: Sequence[float]
) -> Float[Tensor, " samples"]:
    """The wave as loud as its weights say between the loudness (dB) of its sounds, as far as it does not clip."""
    now = loudness(wave)
    if now < _SILENT_DB:
        return wave
    wanted = sum(weight * level for weight, level in zip(weights, sounds, strict=True))
    return wave * min(10 ** ((wanted - now) / 20), 1 / wave.abs().max().item())


class Job(NamedTuple):
    """A cell to be made, of which key ("" if there is no keyboard), and the sound's file; its embedding lies beside."""

    key: str
    cell: Cell
    place: Path


def equal(
    waves: Iterable[tuple[Job, Float[Tensor, " samples"]]], jobs: Sequence[Job], waiting: Sequence[Job]
) -> Iterator[tuple[Job, Float[Tensor, " samples"]]]:
    """Hand on the sounds alone as they are, and the mixes levelled between them as soon as these are written.

    Loudness is that of the files, so that a job that was interrupted goes on with the same numbers.
    """
    asked = {job.place for job in waiting}
    known = {
        (job.key, job.cell.sound): _of_file(job)
        for job in jobs
        if job.place not in asked and job.cell.sound is not None
    }
    held: list[tuple[Job, Tensor]] = []
    for made, wave in waves:
        if made.cell.sound is not None:
            yield made, wave
            known[made.key, made.cell.sound] = _of_file(made)
        else:
            held.append((made, wave))
        waits = []
        for job, mixed in held:
            levels = [known.get((job.key, sound)) for sound in range(len(job.cell.weights))]
            if None in levels:
                waits.append((job, mixed))
            else:
                yield job, levelled(mixed, job.cell.weights, levels)  # type: ignore[arg-type]
        held = waits


def manifest(path: Path, settings: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Write what each file is: the settings of all, and of each cell its key, place, weights and sounds."""
    cells = [
        {
            "sound": place.relative_to(path.parent).as_posix(),
            "embedding": place.with_suffix(".npz").relative_to(path.parent).as_posix(),
            "row": cell.row,
            "column": cell.column,
            "weights": list(cell.weights),
            "pitch": cell.embedding.pitch,
            "velocity": cell.embedding.velocity,
            "samples": cell.embedding.samples,
            "source": cell.embedding.source,
        }
        for _, cell, place in jobs
    ]
    with files.whole(path) as partial:
        partial.write_text(json.dumps({**settings, "cells": cells}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def pages(out: Path, title: str, jobs: Sequence[Job], sounds: Sequence[str]) -> None:
    """Write index.html and the sheet of rainbowgrams it shows: of all there is, or of a keyboard's middle key."""
    keys = sorted({job.key for job in jobs})
    middle = keys[len(keys) // 2]
    rows = _rows([job for job in jobs if job.key == middle])
    drawn = [[(job.cell.name, audio.read(job.place)) for job in row] for row in rows]
    figures.sheet(out / "rainbowgrams.png", drawn, title=title)
    is_grid = len(rows) > 1 and len({len(row) for row in rows}) == 1 and len(sounds) == len(CORNERS)
    sections: list[page.Section | page.Pad] = []
    if is_grid:
        squares = {
            key: [[job.place for job in row] for row in _rows([j for j in jobs if j.key == key])] for key in keys
        }
        sections.append(page.Pad("A pad between four sounds", tuple(sounds), squares))  # type: ignore[arg-type]
    cells = [page.Cell(job.cell.name, job.place, _remark(job.cell.weights, sounds)) for row in rows for job in row]
    text = f"Key {middle}, one of {len(keys)}." if middle else "Each to be played, laid out as they were mixed."
    sections.append(page.Section("All mixes", text, cells, out / "rainbowgrams.png", columns=max(map(len, rows))))
    page.write(out / "index.html", title, sections)


def _of_file(job: Job) -> float:
    return loudness(audio.read(job.place))


def _rows(jobs: Sequence[Job]) -> list[list[Job]]:
    return [[job for job in jobs if job.cell.row == row] for row in sorted({job.cell.row for job in jobs})]


def _remark(weights: Sequence[float], sounds: Sequence[str]) -> str:
    """What a mix holds, in percent: 25% oboe.wav, 75% viola.wav."""
    held: dict[str, float] = {}
    for weight, sound in zip(weights, sounds, strict=True):
        held[sound] = held.get(sound, 0) + weight
    return ", ".join(f"{100 * weight:.3g}% {sound}" for sound, weight in held.items() if weight)
