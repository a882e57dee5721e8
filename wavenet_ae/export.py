"""Turn a folder of notes into an instrument that samplers play: SFZ and DecentSampler, in one zip.

Examples:
    python -m wavenet_ae.export input=generated
        notes called as NSynth's, organ_acoustic_003-060-100.wav; one instrument for each name that comes up
    python -m wavenet_ae.export input="my notes" pattern="INSTRUMENT PITCH" format=sfz release=0.8
        "glass harp C#4.wav": * in a pattern is anything, / a folder; a pitch is a MIDI number or a name (C4 is 60)
    python -m wavenet_ae.export input=keys name=pad controllers=[1,74]
        the grids that interpolate made over a keyboard become an instrument that two controllers morph; of one grid
        alone say pitch=60; of cells called otherwise pattern=PITCH-COLUMN-ROW, column 0 west and row 0 north

Each note sounds on the keys and velocities nearest to its own. Steady notes get a loop; struck and plucked ones play to
their end. An instrument that is newer than all its notes is skipped.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, files, instrument, notes
from wavenet_ae.command import command, finish, required, sift
from wavenet_ae.instrument import Place, Settings
from wavenet_ae.notes import labels

_FIELDS = ("INSTRUMENT", "PITCH", "VELOCITY", "COLUMN", "ROW")
_PATTERNS = ("grid_ROW_COLUMN/*-PITCH-VELOCITY", "grid_ROW_COLUMN", "INSTRUMENT-PITCH-VELOCITY")


@command
def main(cfg: DictConfig) -> None:
    """Sort the notes into instruments, check all, then make one after the other."""
    required(cfg, "input", "out")
    listed = list(cfg.input) if not isinstance(cfg.input, str | int) else [cfg.input]
    taken, left = files.gather([str(path) for path in listed], audio.SUFFIXES, out=str(cfg.out))
    print(f"{len(taken)} notes" + (f", {len(left)} other files left out" if left else ""))
    settings = _settings(cfg)
    instruments, faults = _sorted(taken, cfg)
    wanted = {}
    for name, recordings in instruments.items():
        instrument.check(recordings, settings)
        folder = Path(str(cfg.out)) / name
        if not cfg.overwrite and _is_newer(instrument.archive(folder), recordings.values()):
            print(f"{instrument.archive(folder)} is newer than its notes: skipped (overwrite=true makes it again)")
        else:
            wanted[folder] = recordings
    with tqdm(total=sum(map(len, wanted.values())), desc="export", unit="note") as bar:
        for folder, recordings in wanted.items():
            unlooped, bad = instrument.build(folder, recordings, settings, bar.update)
            faults |= bad
            bar.write(f"{instrument.archive(folder)}: {len(recordings) - len(bad)} notes", end="")
            bar.write(_unlooped(unlooped))
    finish(len(wanted), f"instruments in {cfg.out}", faults)


def _settings(cfg: DictConfig) -> Settings:
    formats = (cfg.format,) if isinstance(cfg.format, str) else tuple(str(name) for name in cfg.format)
    try:
        first, second = (int(number) for number in cfg.controllers)
        return Settings(formats, float(cfg.attack), float(cfg.release), (first, second))
    except (TypeError, ValueError):
        raise ValueError(
            f"attack={cfg.attack} release={cfg.release} controllers={cfg.controllers}: expected two times in seconds "
            "and two numbers, as controllers=[1,74]"
        ) from None


def _sorted(paths: list[Path], cfg: DictConfig) -> tuple[dict[str, dict[Place, Path]], dict[Path, str]]:
    """The notes of each instrument, and the files that are no notes, with reasons.

    Raises:
        ValueError: no file is a note, or the pattern holds no field.
    """
    patterns = _PATTERNS if cfg.pattern is None else (str(cfg.pattern),)
    readers = [labels.by_pattern(pattern, _FIELDS) for pattern in patterns]
    readers = [*readers[:-1], _nsynth, readers[-1]] if cfg.pattern is None else readers
    instruments: dict[str, dict[Place, Path]] = defaultdict(dict)

    def sort(path: Path) -> None:
        audio.inspect(path)
        words = _words(path, readers)
        pitch = words.get("pitch") or ("" if cfg.pitch is None else str(cfg.pitch))
        numbers = labels.check({"pitch": pitch, "velocity": words.get("velocity", "")})
        if "pitch" not in numbers:
            raise ValueError(f"{path} does not say its pitch: give a pattern that holds PITCH, or pitch=... for all")
        cell = {key: int(words[key]) for key in ("column", "row") if key in words}
        place = Place(**{key: int(number) for key, number in (numbers | cell).items()})
        if place.velocity == 0:
            raise ValueError(f"{path} has velocity 0, which in MIDI is a key let go: expected 1 to 127")
        folder = path.absolute().parent
        folder = folder.parent if folder.name.startswith("grid_") else folder
        name = str(cfg.name or words.get("instrument") or folder.name)
        if "/" in name or name.startswith("."):
            raise ValueError(f"{path} would make an instrument called {name!r}: expected a name for a folder")
        other = instruments[name].setdefault(place, path)
        if other != path:
            raise ValueError(f"{path} and {other} are both pitch {place.pitch}, velocity {place.velocity}: remove one")

    good, faults = sift(paths, sort)
    if not good:
        raise ValueError("no note among the files:\n  " + "\n  ".join(list(faults.values())[:8]))
    return instruments, faults


def _words(path: Path, readers: Sequence[Callable[[Path], dict[str, str]]]) -> dict[str, str]:
    """What the first reader that can says of a file.

    Raises:
        ValueError: none can; in the last one's words.
    """
    for read in readers[:-1]:
        with contextlib.suppress(ValueError):
            return read(path)
    return readers[-1](path)


def _nsynth(path: Path) -> dict[str, str]:
    """What NSynth's name of a note says; a second take of it is the same note.

    Raises:
        ValueError: it is no such name.
    """
    key = notes.parse(path.stem)
    return {"instrument": key.instrument, "pitch": str(key.pitch), "velocity": str(key.velocity)}


def _is_newer(result: Path, sources: Iterable[Path]) -> bool:
    return result.exists() and all(result.stat().st_mtime >= path.stat().st_mtime for path in sources)


def _unlooped(places: list[Place]) -> str:
    if not places:
        return ""
    named = ", ".join(str(pitch) for pitch in sorted({place.pitch for place in places}))
    return (
        f", {len(places)} of them without a steady part, which end by themselves however long a key is held ({named})"
    )


if __name__ == "__main__":
    main()
