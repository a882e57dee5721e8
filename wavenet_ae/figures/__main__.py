"""Draw what there is: sounds as rainbowgrams or spectrograms, embeddings over time, the course of a training.

Examples:
    python -m wavenet_ae.figures input=note.wav
        figures/note.png, a rainbowgram; sound=spectrogram draws levels in dB over time and frequency
    python -m wavenet_ae.figures input=[original.wav,made.wav] together=true
        side by side on one scale
    python -m wavenet_ae.figures input=embeddings/note.npz
        the numbers of an embedding over time
    python -m wavenet_ae.figures input=runs/small-2026-11-27_12-00-00
        the cost of training crops and of held-out notes over steps; a folder of other things is drawn file by file
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, embeddings, figures, files
from wavenet_ae.command import command, finish, length_of, required, several
from wavenet_ae.training.run import Run

_SOUNDS = ("rainbowgram", "spectrogram")
_COSTS = {"nats": "a sample", "error": "of spectrograms (weighted, squared)"}


@command
def main(cfg: DictConfig) -> None:
    """Find out what each input is, then draw them one after the other."""
    required(cfg, "input", "out")
    if cfg.sound not in _SOUNDS:
        raise ValueError(f"sound is {cfg.sound!r}: expected {' or '.join(_SOUNDS)}")
    length, given = length_of(cfg.seconds), [Path(path) for path in several(cfg.input)]
    runs = [path for path in given if (path / "metrics.jsonl").is_file()]
    others = [path for path in given if path not in runs]
    suffixes = (*audio.SUFFIXES, *embeddings.SUFFIXES)
    taken, _ = files.gather(others, suffixes, out=cfg.out) if others or not runs else ([], [])
    sounds = [path for path in taken if path.suffix.lower() not in embeddings.SUFFIXES]
    drawings: dict[Path, Callable[[Path], None]] = {path: partial(_course, path) for path in runs}
    drawings |= {path: partial(_embedding, path) for path in taken if path not in sounds}
    groups = [sounds] * bool(sounds) if cfg.together else [[path] for path in sounds]
    drawings |= {group[0]: partial(_sounds, group, cfg.sound, length) for group in groups}
    roots = [path for path in others if path.is_dir()]
    places, done, faults = files.outputs([_named(path) for path in drawings], str(cfg.out), ".png", roots=roots), 0, {}
    for path, place in tqdm(list(zip(drawings, places.values(), strict=True)), desc="figures", unit="picture"):
        try:
            drawings[path](place)
            done += 1
        except (ValueError, OSError) as error:
            faults[path] = str(error)
    finish(done, f"pictures in {cfg.out}", faults)


def _named(path: Path) -> Path:
    """A run's picture is called as its folder, dots and all."""
    return path.absolute().with_name(f"{path.absolute().name}.run") if path.is_dir() else path


def _sounds(paths: list[Path], kind: str, length: int | None, place: Path) -> None:
    named = [(path.stem, audio.read(path)[:length]) for path in paths]
    if kind == "spectrogram":
        figures.spectrogram(place, named)
    else:
        figures.sheet(place, [named])


def _embedding(path: Path, place: Path) -> None:
    found = embeddings.read(path)
    figures.embedding(place, found.values.numpy(), hop=found.hop, title=path.stem)


def _course(path: Path, place: Path) -> None:
    lines = Run(path).metrics()
    unit = next((unit for unit in _COSTS if any(unit in line or f"valid_{unit}" in line for line in lines)), None)
    if unit is None:
        raise ValueError(
            f"{path} holds no measurements of a training yet: expected {' or '.join(_COSTS)} in metrics.jsonl"
        )
    config = path / "config.yaml"
    is_ear = config.is_file() and "models.classifier." in config.read_text(encoding="utf-8")
    figures.curve(place, lines, unit=unit, per="a note" if is_ear else _COSTS[unit])


if __name__ == "__main__":
    main()
