"""Turn embeddings, or sounds by way of their embeddings, into sound.

Examples:
    python -m wavenet_ae.generate checkpoint=runs/small/model.safetensors input=note.wav
        reconstructs a note: generated/note.wav is as long as note.wav
    python -m wavenet_ae.generate checkpoint=nsynth.safetensors input=embeddings/ out=sounds seed=1
        a folder of .npz (or Magenta's .npy); done files are skipped, so the same command goes on after a stop
    python -m wavenet_ae.generate checkpoint=nsynth.safetensors input=mix.npz temperature=0.9 seconds=1
    python -m wavenet_ae.generate checkpoint=nsynth.safetensors input=embeddings/ workers=ray
        the machines of a Ray cluster share the sounds; workers=8: eight processes here. The same files
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, provenance, workers
from wavenet_ae.command import (
    audio_model,
    command,
    device_of_workers,
    devices_named,
    finish,
    pending,
    required,
    same_model,
    sift,
)
from wavenet_ae.synthesis import Sampling, Sound, render, sound

SAMPLING = ("engine", "precision", "threads", "batch", "seed", "temperature", "top_p", "iterations", "momentum")
_SHARES = 64  # of the work on a cluster, at least, however many its processes turn out to be


@dataclasses.dataclass(frozen=True)
class Wish:
    """How sounds are to be made of files, with which model."""

    checkpoint: str
    fingerprint: str
    device: str
    out: str
    sampling: Sampling
    made: str
    subtype: str
    any_model: bool
    pitch: int | None
    seconds: float | None


@command
def main(cfg: DictConfig) -> None:
    """Check all inputs, then generate them side by side, each written as soon as it is done."""
    required(cfg, "checkpoint", "input", "out")
    audio.check_subtype("wav", cfg.subtype)
    sampling = Sampling(**{name: cfg[name] for name in SAMPLING}, devices=devices_named(cfg.devices))
    device = device_of_workers(cfg.device, cfg.workers)
    if cfg.workers and sampling.devices:
        raise ValueError(f"devices and workers={cfg.workers}: expected one of the two to share the sounds")
    model = audio_model(cfg.checkpoint)
    fingerprint = checkpoint.fingerprint(model)
    made = provenance.made_with(model, fingerprint, sampling)
    own = {"subtype": cfg.subtype, "any_model": cfg.any_model, "pitch": cfg.pitch, "seconds": cfg.seconds}
    wish = Wish(str(cfg.checkpoint), fingerprint, device, str(cfg.out), sampling, made, **own)
    studio = None if cfg.workers else Studio(wish)  # an engine that cannot run says so before anything is encoded
    taken = (*embeddings.SUFFIXES, *audio.SUFFIXES)
    places = pending(cfg.input, taken, cfg.out, ".wav", made=made, overwrite=cfg.overwrite)
    done, faults = _shared(wish, places, cfg.workers) if studio is None else _alone(studio, places)
    finish(done, f"sounds in {cfg.out}", faults)


class Studio:
    """The model, at work on a wish."""

    def __init__(self, wish: Wish):
        self.wish = wish
        self.model = same_model(wish.checkpoint, wish.fingerprint, wish.device)
        self.sampling = wish.sampling.check(self.model.decoder)

    def sounds(self, paths: Iterable[Path], places: Mapping[Path, Path]) -> tuple[dict[Path, Sound], dict[Path, str]]:
        """What is to be heard of each file, and the reasons of those that give no sound."""
        found: dict[Path, Sound] = {}

        def prepare(path: Path) -> None:
            found[path] = self._sound(path, places[path])

        _, faults = sift(paths, prepare)
        return found, faults

    def play(
        self,
        sounds: Mapping[Path, Sound],
        places: Mapping[Path, Path],
        progress: Callable[[int], object] = lambda samples: None,
        written: Callable[[str], object] = lambda place: None,
    ) -> None:
        """Generate sounds side by side and write each as soon as it is done."""
        paths = list(sounds)
        for index, wave in render(self.model.decoder, list(sounds.values()), self.sampling, progress):
            path = paths[index]
            comment = provenance.comment(self.wish.made, path.name)
            audio.write(places[path], wave, comment=comment, subtype=self.wish.subtype)
            written(str(places[path]))

    def _sound(self, path: Path, place: Path) -> Sound:
        """What is to be heard of a file, called as its place is, which keys its dice."""
        wish = self.wish
        advice = "its numbers mean other sounds here; use the model's own checkpoint, or any_model=true"
        embedding = embeddings.obtain(self.model, wish.fingerprint, path, otherwise=None if wish.any_model else advice)
        pitch = embedding.pitch if wish.pitch is None else wish.pitch
        if pitch is None and self.model.pitch is not None:
            raise ValueError(
                f"{path} does not say its pitch and the model is conditioned on it: add pitch=... (MIDI, 0 to 127)"
            )
        name = place.relative_to(wish.out).with_suffix("").as_posix()
        return sound(self.model, name, embedding.values, _wanted(embedding.samples, wish.seconds), pitch)


def _wanted(samples: int, seconds: float | None) -> int:
    return samples if seconds is None else min(samples, round(seconds * audio.SAMPLE_RATE))


def _bar(samples: int) -> tqdm:
    return tqdm(total=samples, desc="generate", unit="sample", unit_scale=True)


def _advance(bar: tqdm, samples: int) -> None:
    bar.update(samples)
    if rate := bar.format_dict["rate"]:
        bar.set_postfix_str(f"{rate / audio.SAMPLE_RATE:.3g} x real time", refresh=False)


def _alone(studio: Studio, places: Mapping[Path, Path]) -> tuple[int, dict[Path, str]]:
    """How many sounds were made, and what became of the others."""
    sounds, faults = studio.sounds(tqdm(places, desc="check", unit="file", delay=1), places)
    with _bar(sum(each.samples for each in sounds.values())) as bar:
        studio.play(sounds, places, partial(_advance, bar), bar.write)
    return len(sounds), faults


def _shared(wish: Wish, places: Mapping[Path, Path], crew: int | str) -> tuple[int, dict[Path, str]]:
    """The same by several processes, a group of sounds of like lengths at a time.

    A group whose processes were lost is tried again one by one: a sound must not cost its neighbours theirs.
    """
    samples: dict[Path, int] = {}

    def look(path: Path) -> None:
        samples[path] = _wanted(_samples(path), wish.seconds)

    paths, faults = sift(tqdm(places, desc="check", unit="file", delay=1), look)
    paths.sort(key=samples.__getitem__, reverse=True)
    size = min(wish.sampling.batch, max(1, -(-len(paths) // (crew if isinstance(crew, int) else _SHARES))))
    groups = [paths[start : start + size] for start in range(0, len(paths), size)]
    with _bar(sum(samples.values())) as bar:
        found = _made(wish, places, groups, crew, lambda i: _advance(bar, sum(samples[path] for path in groups[i])))
    lost = [[path] for path, why in found.items() if isinstance(why, workers.Lost)] if size > 1 else []
    found |= _made(wish, places, lost, crew, lambda _: None)
    failed = {path: str(why) for path, why in found.items() if why is not None}
    return len(found) - len(failed), faults | failed


def _made(
    wish: Wish,
    places: Mapping[Path, Path],
    groups: Sequence[list[Path]],
    crew: int | str,
    done: Callable[[int], object],
) -> dict[Path, str | workers.Lost | None]:
    """What became of each sound: nothing to tell, or why there is none."""
    found: dict[Path, str | workers.Lost | None] = {}
    jobs, gpu = [{path: places[path] for path in group} for group in groups], wish.device.startswith("cuda")
    with closing(workers.shared(partial(_maker, wish), jobs, crew, done=done, gpu=gpu)) as results:
        for group, result in zip(groups, results, strict=True):
            if isinstance(result, workers.Lost):
                found |= dict.fromkeys(group, result)
            elif isinstance(result, Exception):
                raise result
            else:
                found |= dict.fromkeys(group) | result
    return found


def _maker(wish: Wish) -> Callable[[Mapping[Path, Path]], dict[Path, str]]:
    """A job is some sounds and their places; it comes to the reasons of those that could not be made."""
    cores = wish.sampling.threads or torch.get_num_threads()
    studio = Studio(dataclasses.replace(wish, sampling=dataclasses.replace(wish.sampling, threads=cores)))

    def make(places: Mapping[Path, Path]) -> dict[Path, str]:
        sounds, faults = studio.sounds(places, places)
        studio.play(sounds, places)
        return faults

    return make


def _samples(path: Path) -> int:
    """How long a file's sound is, by a quick look."""
    if path.suffix.lower() in embeddings.SUFFIXES:
        return embeddings.read(path).samples
    info = audio.inspect(path)
    return round(info.samples * audio.SAMPLE_RATE / info.rate)


if __name__ == "__main__":
    main()
