"""The whole line in minutes: train, reconstruct two notes it never heard, mix them, listen and look.

Examples:
    python -m wavenet_ae.demo
        trains the small model for seven minutes and writes demo/index.html
    python -m wavenet_ae.demo minutes=30 out=better
    python -m wavenet_ae.demo root=my/corpus out=mine
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, figures, notes, page
from wavenet_ae.command import Failed, audio_model, command
from wavenet_ae.embeddings import Embedding
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.notes import Note
from wavenet_ae.page import Cell, Section
from wavenet_ae.synthesis import Sampling, Sound, render
from wavenet_ae.training.run import Run


@command
def main(cfg: DictConfig) -> None:
    """Train, encode, mix, generate, show."""
    out = Path(cfg.out)
    pair = _two_notes(notes.load(cfg.root, "test"))
    metrics = _train(cfg, out / "run")
    model = audio_model(str(out / "run" / "model.safetensors"))
    originals = {note.name: audio.read(note.path)[: round(cfg.seconds * audio.SAMPLE_RATE)] for note in pair}
    made = _generate(cfg, model, pair, originals, out)
    figures.curve(out / "training.png", metrics)
    for name, wave in originals.items():
        audio.write(out / f"{name}.original.wav", wave)
    first, second = originals
    figures.sheet(
        out / "rainbowgrams.png",
        [
            [(f"{first} (original)", originals[first]), (f"{second} (original)", originals[second])],
            [("its reconstruction", made[first]), ("its reconstruction", made[second]), ("half of each", made["mix"])],
        ],
    )
    page.write(out / "index.html", "Two notes, and one that never was", _sections(out, first, second, metrics))
    print(f"\nlisten and look: {out / 'index.html'}\nsounds: {', '.join(sorted(p.name for p in out.glob('*.wav')))}")


def _train(cfg: DictConfig, run: Path) -> list[dict[str, Any]]:
    """Train as a user would, unless an earlier demo did; the run's measurements."""
    trained = run / "trained"
    if trained.exists():
        print(f"{run} was trained by an earlier demo: its model is used (delete {cfg.out} to begin anew)")
    else:
        arguments = [f"minutes={cfg.minutes}"]
        if any(run.glob("states/*.safetensors")):
            arguments += [f"resume={run}"]
        else:
            arguments += [
                f"run={run}",
                f"notes.root={cfg.root}",
                *(f"{name}={cfg[name]}" for name in ("batch", "crop", "threads")),
            ]
        _run_to_its_end("wavenet_ae.train", arguments)
        trained.touch()
    return Run(run).metrics()


def _run_to_its_end(module: str, arguments: list[str]) -> None:
    """Run a command; Ctrl-C reaches it too, and it is given the time to save what it did.

    Raises:
        Failed: its status is not 0.
    """
    print(f"$ python -m {module} {' '.join(arguments)}", flush=True)
    with subprocess.Popen([sys.executable, "-m", module, *arguments]) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
    if status:
        raise Failed(f"{module} ended with status {status}; its own message stands above")


def _two_notes(test: list[Note]) -> list[Note]:
    """Two held-out notes of one pitch and unlike families, the loudest of each, from the middle of the keyboard."""
    pitches = {note.pitch for note in test}
    by_pitch = {p: {n.family: n for n in sorted(test, key=lambda n: n.velocity) if n.pitch == p} for p in pitches}
    most = max(len(families) for families in by_pitch.values())
    if most < 2:
        raise ValueError("the test split has no two families at one pitch: expected notes that can be mixed")
    pitch = min((p for p in pitches if len(by_pitch[p]) == most), key=lambda p: abs(p - 60))
    families = by_pitch[pitch]
    return [families[name] for name in sorted(families)[:2]]


def _generate(
    cfg: DictConfig, model: Autoencoder, pair: list[Note], originals: dict[str, torch.Tensor], out: Path
) -> dict[str, torch.Tensor]:
    """Both reconstructions and the mix, side by side; embeddings and sounds are written too."""
    fingerprint = checkpoint.fingerprint(model)
    made = {}
    for note in pair:
        wave = originals[note.name]
        made[note.name] = Embedding(
            embeddings.encode(model, wave),
            fingerprint,
            model.hop,
            audio.SAMPLE_RATE,
            wave.numel(),
            note.name,
            note.pitch,
        )
    a, b = embeddings.align(list(made.values()), "pad", embeddings.silence(model))
    made["mix"] = a._replace(values=embeddings.mix([a.values, b.values], [0.5, 0.5]), source=f"{a.source} + {b.source}")
    for name, embedding in made.items():
        embeddings.write(out / f"{name}.npz", embedding)
    sounds = [Sound(name, embedding.values, embedding.samples) for name, embedding in made.items()]
    heard = {}
    with tqdm(total=sum(s.samples for s in sounds), desc="generate", unit="sample", unit_scale=True) as bar:
        sampling = Sampling(seed=cfg.seed, temperature=cfg.temperature)
        for index, wave in render(model.decoder, sounds, sampling, bar.update):
            heard[sounds[index].name] = wave
            audio.write(out / f"{sounds[index].name}.wav", wave, comment="made by wavenet_ae's demo")
    return heard


def _sections(out: Path, first: str, second: str, metrics: list[dict[str, Any]]) -> list[Section]:
    held_out = [line["valid_nats"] for line in metrics if "valid_nats" in line]
    steps = max(int(line["step"]) for line in metrics)
    return [
        Section(
            "Originals",
            "Two notes of instruments that were held out of the training.",
            [Cell(name, out / f"{name}.original.wav") for name in (first, second)],
        ),
        Section(
            "From 16 numbers every 32 ms",
            f"What the model makes of their embeddings after {steps:,} steps, and of the average of the two. "
            "So short a training gives the note and its outline in noise; train longer for more.",
            [
                Cell(first, out / f"{first}.wav", "reconstruction"),
                Cell(second, out / f"{second}.wav", "reconstruction"),
                Cell("half of each", out / "mix.wav", "a sound that never was"),
            ],
            out / "rainbowgrams.png",
        ),
        Section(
            "Training",
            f"Held-out notes cost {held_out[0]:.2f} nats a sample before training (ln 256 = 5.55 is knowing nothing) "
            f"and {held_out[-1]:.2f} after.",
            picture=out / "training.png",
        ),
    ]


if __name__ == "__main__":
    main()
