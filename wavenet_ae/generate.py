"""Turn embeddings, or sounds by way of their embeddings, into sound.

Examples:
    python -m wavenet_ae.generate checkpoint=runs/small/model.safetensors input=note.wav
        reconstructs a note: generated/note.wav is as long as note.wav
    python -m wavenet_ae.generate checkpoint=nsynth.safetensors input=embeddings/ out=sounds seed=1
        a folder of .npz (or Magenta's .npy); done files are skipped, so the same command goes on after a stop
    python -m wavenet_ae.generate checkpoint=nsynth.safetensors input=mix.npz temperature=0.9 seconds=1
"""

from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, provenance
from wavenet_ae.command import audio_model, command, device_named, devices_named, finish, pending, required, sift
from wavenet_ae.embeddings import Embedding
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.synthesis import Sampling, Sound, render, sound

SAMPLING = ("engine", "precision", "threads", "batch", "seed", "temperature", "top_p", "iterations", "momentum")


@command
def main(cfg: DictConfig) -> None:
    """Check all inputs, then generate them side by side, each written as soon as it is done."""
    required(cfg, "checkpoint", "input", "out")
    audio.check_subtype("wav", cfg.subtype)
    sampling = Sampling(**{name: cfg[name] for name in SAMPLING}, devices=devices_named(cfg.devices))
    model = audio_model(cfg.checkpoint).to(device_named(cfg.device))
    sampling.check(model.decoder)  # an engine that cannot run says so before anything is encoded
    fingerprint = checkpoint.fingerprint(model)
    made = provenance.made_with(model, fingerprint, sampling)
    taken = (*embeddings.SUFFIXES, *audio.SUFFIXES)
    places = pending(cfg.input, taken, cfg.out, ".wav", made=made, overwrite=cfg.overwrite)
    sounds: dict[Path, Sound] = {}

    def prepare(path: Path) -> None:
        advice = "its numbers mean other sounds here; use the model's own checkpoint, or any_model=true"
        embedding = embeddings.obtain(model, fingerprint, path, otherwise=None if cfg.any_model else advice)
        name = places[path].relative_to(str(cfg.out)).with_suffix("").as_posix()
        sounds[path] = _sound(model, embedding._replace(source=name), path, cfg.pitch, cfg.seconds)

    paths, faults = sift(tqdm(places, desc="check", unit="file", delay=1), prepare)
    waiting = [sounds[path] for path in paths]
    with tqdm(total=sum(s.samples for s in waiting), desc="generate", unit="sample", unit_scale=True) as bar:

        def progress(samples: int) -> None:
            bar.update(samples)
            if rate := bar.format_dict["rate"]:
                bar.set_postfix_str(f"{rate / audio.SAMPLE_RATE:.3g} x real time", refresh=False)

        for index, wave in render(model.decoder, waiting, sampling, progress):
            path = paths[index]
            comment = provenance.comment(made, path.name)
            audio.write(places[path], wave, comment=comment, subtype=cfg.subtype)
            bar.write(f"{places[path]}")
    finish(len(paths), f"sounds in {cfg.out}", faults)


def _sound(model: Autoencoder, embedding: Embedding, path: Path, pitch: int | None, seconds: float | None) -> Sound:
    """What is to be heard of an embedding, called as its source is, which keys its dice."""
    pitch = embedding.pitch if pitch is None else pitch
    if pitch is None and model.pitch is not None:
        raise ValueError(
            f"{path} does not say its pitch and the model is conditioned on it: add pitch=... (MIDI, 0 to 127)"
        )
    samples = embedding.samples if seconds is None else min(embedding.samples, round(seconds * audio.SAMPLE_RATE))
    return sound(model, embedding.source, embedding.values, samples, pitch)


if __name__ == "__main__":
    main()
