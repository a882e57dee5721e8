"""Play a MIDI file with embeddings: one sound, an instrument's notes, or a morph from sound to sound.

Examples:
    python -m wavenet_ae.perform checkpoint=model.safetensors midi=song.mid inputs=organ_acoustic_003-060-100.wav
        performed/song.wav; each key plays the note nearest to it, transposed
    python -m wavenet_ae.perform checkpoint=model.safetensors midi=song.mid inputs=organ/
        a folder of one instrument's notes, called as NSynth's or encoded: fewer keys are transposed
    python -m wavenet_ae.perform checkpoint=model.safetensors midi=song.mid inputs=[bell.wav,choir.npz] morph=true
        bell at the beginning, choir at the end; pitch=60 says what they sound at, if their names do not

Every distinct note is generated once and kept in out/notes: after a stop the same command goes on. Louder is
(velocity / the encoded velocity) squared. Drums (channel 10) and pitch bends are left out.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, files, performance, provenance, score, synthesis
from wavenet_ae.command import (
    Failed,
    audio_model,
    command,
    device_named,
    devices_named,
    finish,
    pending,
    required,
    sift,
)
from wavenet_ae.embeddings import Embedding
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.performance import Band, Style
from wavenet_ae.score import Played
from wavenet_ae.synthesis import Sampling

SAMPLING = ("engine", "precision", "threads", "batch", "seed", "temperature", "top_p", "iterations", "momentum")


@command
def main(cfg: DictConfig) -> None:
    """Check everything, then perform one piece after the other."""
    required(cfg, "checkpoint", "midi", "inputs", "out")
    audio.check_subtype("wav", cfg.subtype)
    style = _style(cfg)
    sampling = Sampling(**{name: cfg[name] for name in SAMPLING}, devices=devices_named(cfg.devices))
    given = [cfg.inputs] if isinstance(cfg.inputs, str | int) else list(cfg.inputs)
    groups = _groups([str(path) for path in given], bool(cfg.morph), str(cfg.out))
    model = audio_model(cfg.checkpoint).to(device_named(cfg.device))
    sampling = sampling.check(model.decoder)
    fingerprint = checkpoint.fingerprint(model)
    how = provenance.made_with(model, fingerprint, sampling)
    names = (" > " if cfg.morph else " ").join(Path(str(path)).name for path in given)
    made = f"{how}, hold {cfg.hold}, release {cfg.release:g}, pitch {cfg.pitch}, of {names}"
    places = pending(cfg.midi, score.SUFFIXES, cfg.out, ".wav", made=made, overwrite=cfg.overwrite)
    pieces: dict[Path, list[Played]] = {}
    paths, faults = sift(places, lambda path: pieces.update({path: score.read(path)}))
    if paths:
        band = Band(model, _encoded(groups, model, fingerprint, cfg.pitch), style)
    for path in paths:
        music = _performed(band, pieces[path], Path(str(cfg.out)) / "notes", sampling, how)
        audio.write(places[path], _fitting(music), comment=provenance.comment(made, path.name), subtype=cfg.subtype)
        print(places[path])
    finish(len(paths), f"pieces in {cfg.out}", faults)


def _performed(
    band: Band, notes: Sequence[Played], folder: Path, sampling: Sampling, how: str
) -> Float[Tensor, " samples"]:
    """A piece: the notes that are not in `folder` yet are generated, then all are mixed."""
    parts = list(band.parts(notes))
    key = hashlib.blake2b(how.encode(), digest_size=4).hexdigest()  # notes of another model or seed are others
    places = {part.sound.name: folder / f"{part.sound.name}-{key}.wav" for part in parts}
    sounds = list({part.sound.name: part.sound for part in parts if not places[part.sound.name].exists()}.values())
    total = sum(each.samples for each in sounds)
    print(f"{len(notes)} notes: {len(places)} different ones, {len(sounds)} of them to be generated")
    with tqdm(total=total, desc="generate", unit="sample", unit_scale=True, disable=not sounds) as bar:
        for index, wave in synthesis.render(band.model.decoder, sounds, sampling, bar.update):
            name = sounds[index].name
            audio.write(places[name], wave, comment=provenance.comment(how, "a note"), subtype="FLOAT")
    heard = performance.heard(parts, lambda name: audio.read(places[name]), band.style.release)
    return score.mix(heard, max(part.start + part.samples for part in parts))


def _fitting(music: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """The music, softer if it would be cut at full scale, and said so."""
    peak = float(music.abs().max())
    if peak <= 1:
        return music
    print(f"made {20 * np.log10(peak):.1f} dB softer to fit: many voices at once, or loud ones")
    return music / peak


def _style(cfg: DictConfig) -> Style:
    """Raises ValueError for times that mean nothing."""
    try:
        hold = None if cfg.hold is None else tuple(float(at) for at in cfg.hold)
        release = float(cfg.release)
    except (TypeError, ValueError):
        raise ValueError(
            f"hold={cfg.hold} release={cfg.release}: expected hold=[0.4,0.6] or null, and seconds"
        ) from None
    if hold is not None and (len(hold) != 2 or not 0 <= hold[0] < hold[1] <= 1):
        raise ValueError(f"hold is {list(hold)}: expected where the part held begins and ends, as hold=[0.4,0.6]")
    if not 0.005 <= release <= 60:
        raise ValueError(f"release is {release} seconds: expected 0.005 to 60; shorter ones click")
    return Style(hold, round(release * audio.SAMPLE_RATE))


def _groups(paths: Sequence[str], morph: bool, out: str) -> list[list[Path]]:
    """The files of each instrument: all of one, or, to morph, those of each input.

    Raises:
        FileNotFoundError: an input is not there, or holds no sound.
        ValueError: one input is to morph.
    """
    suffixes = (*embeddings.SUFFIXES, *audio.SUFFIXES)
    if not morph:
        return [files.gather(paths, suffixes, out=out)[0]]
    if len(paths) < 2:
        raise ValueError(
            "one input and morph=true: expected two or more, as inputs=[a.wav,b.wav], to go from one to another"
        )
    return [files.gather(path, suffixes, out=out)[0] for path in paths]


def _encoded(
    groups: list[list[Path]], model: Autoencoder, fingerprint: str, pitch: int | None
) -> list[list[Embedding]]:
    """The encodings of each instrument.

    Raises:
        Failed: listing those that cannot be read, are of another model, or say no pitch.
        ValueError: instruments to morph have no pitch in common.
    """
    found: dict[Path, Embedding] = {}

    def read(path: Path) -> None:
        each = embeddings.obtain(model, fingerprint, path, otherwise="encode the sound by this")
        known = each.pitch if each.pitch is not None else pitch
        if known is None:
            raise ValueError(
                f"{path} does not say its pitch: add pitch=... (MIDI), or call it as organ_acoustic_003-060-100"
            )
        if not 0 <= known <= 127:
            raise ValueError(f"{path} has pitch {known}: expected a MIDI pitch, 0 to 127")
        found[path] = each._replace(values=each.values.cpu().clone(), pitch=known)

    every = list(dict.fromkeys(path for group in groups for path in group))
    _, faults = sift(tqdm(every, desc="encode", unit="file", delay=1), read)
    if faults:
        raise Failed("\n  ".join([f"{len(faults)} of {len(every)} inputs cannot be played:", *faults.values()]))
    pitches = [sorted({found[path].pitch or 0 for path in group}) for group in groups]
    if not set.intersection(*map(set, pitches)):
        listed = "; ".join(
            f"{group[0].name} and its like: {heard}" for group, heard in zip(groups, pitches, strict=True)
        )
        raise ValueError(f"the inputs to morph have no pitch in common ({listed}): expected notes of the same pitch")
    return [[found[path] for path in group] for group in groups]


if __name__ == "__main__":
    main()
