"""An instrument on disk: its samples, a preset for each format, and one zip of all."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch

from wavenet_ae import audio, files
from wavenet_ae.instrument import decentsampler, loops, sfz, wav
from wavenet_ae.instrument.zones import Place, arrange

FORMATS = ("sfz", "decentsampler")
SILENT = 1e-3  # a note whose peak is below is taken for silence


class Settings(NamedTuple):
    """How an instrument plays and what is written of it; see `sfz.text`."""

    formats: tuple[str, ...] = FORMATS
    attack_s: float = 0.002
    release_s: float = 0.3
    controllers: tuple[int, int] = (16, 17)


def check(recordings: Mapping[Place, Path], settings: Settings) -> None:
    """Refuse, before any work, what cannot become an instrument.

    Raises:
        ValueError: an unknown format, impossible times or controllers, more than 64 columns or rows, cells of the
            grid without a note, or a grid for DecentSampler alone; the message says which.
    """
    unknown = [name for name in settings.formats if name not in FORMATS]
    if unknown or not settings.formats:
        raise ValueError(f"unknown format {', '.join(unknown) or '(none)'}: choose of {', '.join(FORMATS)}")
    for name, seconds in (("attack", settings.attack_s), ("release", settings.release_s)):
        if not 0 <= seconds <= 60:
            raise ValueError(f"{name} is {seconds} seconds: expected 0 to 60")
    sfz.text([], title="", attack_s=0.0, release_s=0.0, controllers=settings.controllers)
    cells = {(place.column, place.row) for place in recordings}
    columns, rows = ({cell[axis] for cell in cells} for axis in (0, 1))
    missing = sorted({(column, row) for column in columns for row in rows} - cells)
    if missing:
        raise ValueError(
            f"cells {missing[:4]} (column, row) of the grid have no note: generate them, or leave out a line"
        )
    if max(len(columns), len(rows)) > 64:
        raise ValueError(f"the grid has {len(columns)} x {len(rows)} cells: a MIDI controller tells 64 apart at most")
    if len(cells) > 1 and "sfz" not in settings.formats:
        raise ValueError(
            "a grid is exported as SFZ alone: DecentSampler has no crossfade between cells; add format=sfz"
        )


def build(
    folder: str | Path,
    recordings: Mapping[Place, Path],
    settings: Settings,
    progress: Callable[[int], object] = lambda notes: None,
) -> tuple[list[Place], dict[Path, str]]:
    """Make the instrument `folder` (presets and samples/) and `folder`.zip, the last when all is there.

    Every note is read, its loop found and the joint made smooth, and written with its loop in it.

    Returns:
        The notes that have no part to hold and play to their end, and the files that cannot be used, with reasons.

    Raises:
        ValueError: as `check`, or no note can be used.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    check(recordings, settings)
    found: dict[Place, loops.Loop | None] = {}
    faults: dict[Path, str] = {}
    for place, path in recordings.items():
        progress(1)
        try:
            wave, said = _recording(path)
        except (ValueError, OSError) as error:
            faults[path] = str(error)
            continue
        loop = loops.find(wave)
        zone = arrange([place])[0]
        wav.write(folder / zone.sample, loops.smooth(wave, loop), pitch=place.pitch, loop=loop, comment=said)
        found[place] = loop
    if not found:
        raise ValueError(f"no note of {folder.name} can be used:\n  " + "\n  ".join(faults.values()))
    zones = [zone._replace(loop=found[zone.place]) for zone in arrange(found)]
    times = {"attack_s": settings.attack_s, "release_s": settings.release_s}
    presets = {}
    if "sfz" in settings.formats:
        presets[".sfz"] = sfz.text(zones, title=folder.name, controllers=settings.controllers, **times)
    if "decentsampler" in settings.formats and not any(place.column or place.row for place in found):
        presets[".dspreset"] = decentsampler.text(zones, **times)
    for suffix, preset in presets.items():
        with files.whole(folder / f"{folder.name}{suffix}") as partial:
            partial.write_text(preset, encoding="utf-8")
    _pack(folder, [*(f"{folder.name}{suffix}" for suffix in presets), *(zone.sample for zone in zones)])
    return [place for place, loop in found.items() if loop is None], faults


def archive(folder: str | Path) -> Path:
    """Where an instrument's zip is: beside its folder."""
    return Path(folder).with_name(f"{Path(folder).name}.zip")


def _recording(path: Path) -> tuple[torch.Tensor, str]:
    """A note and what its file says of itself, which a machine-made sound keeps.

    Raises:
        ValueError: it cannot be read, or is silent.
    """
    wave = audio.read(path)
    if float(wave.abs().max()) < SILENT:
        raise ValueError(f"{path} is silent (peak below {SILENT}): expected a note; remove or generate it again")
    with soundfile.SoundFile(path) as file:
        return wave, file.comment


def _pack(folder: Path, names: list[str]) -> None:
    """The named files of the folder as one zip, the same bytes every time."""
    with files.whole(archive(folder)) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            entry = zipfile.ZipInfo(f"{folder.name}/{name}")
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, (folder / name).read_bytes())
