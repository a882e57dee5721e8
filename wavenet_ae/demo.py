"""The whole line in minutes: notes that a model never heard, their mix, a new instrument learnt; listen and look.

Examples:
    python -m wavenet_ae.demo
        the first sound within a minute; then the trained model in the box learns a new instrument: demo/index.html
    python -m wavenet_ae.demo minutes=0
        no learning
    python -m wavenet_ae.demo root=my/corpus checkpoint=model.safetensors minutes=30 out=mine
"""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from tqdm import tqdm

from wavenet_ae import audio, checkpoint, embeddings, figures, mulaw, notes, page
from wavenet_ae.command import Failed, command
from wavenet_ae.embeddings import Embedding
from wavenet_ae.models.wavenet import WaveNetAutoencoder
from wavenet_ae.notes import Note
from wavenet_ae.page import Cell, Section
from wavenet_ae.synthesis import Sampling, render, sound
from wavenet_ae.training.run import Run

Waves = dict[str, torch.Tensor]


@command
def main(cfg: DictConfig) -> None:
    """Encode, mix, generate, show; then learn and show again."""
    start, out = time.monotonic(), Path(cfg.out)
    test = notes.load(cfg.root, "test")
    pair = _two_notes(test)
    model = _wavenet(cfg.checkpoint)
    originals = {note.name: audio.read(note.path)[: round(cfg.seconds * audio.SAMPLE_RATE)] for note in pair}
    encoded = {note.name: _encoded(model, note, originals[note.name]) for note in pair}
    encoded |= {"mix": _mixed(model, *encoded.values())}
    for name, embedding in encoded.items():
        embeddings.write(out / f"{name}.npz", embedding)
    for name, wave in originals.items():
        audio.write(out / f"{name}.original.wav", wave)
    made = _generated(cfg, model, encoded, out)
    print(f"heard after {time.monotonic() - start:.0f} s: {', '.join(str(out / f'{name}.wav') for name in made)}")
    first, second = originals
    rows = [
        [(f"{first} (original)", originals[first]), (f"{second} (original)", originals[second])],
        [("its reconstruction", made[first]), ("its reconstruction", made[second]), ("half of each", made["mix"])],
    ]
    figures.sheet(out / "rainbowgrams.png", rows)
    sections = _heard(out, first, second)
    _show(out, sections)
    if cfg.minutes:
        known = max(pair, key=lambda note: _cost(model, note, originals[note.name]))
        others = [note for note in test if note.instrument == known.instrument and note != known]
        run = _learn(cfg, checkpoint.fingerprint(model), others, out)
        metrics, learnt = Run(run).metrics(), _wavenet(run / "model.safetensors")
        name = f"{known.name}.learnt"
        made |= _generated(cfg, learnt, {name: _encoded(learnt, known, originals[known.name])}, out)
        figures.curve(out / "training.png", metrics)
        row = [("original", originals[known.name]), ("before", made[known.name]), ("after", made[name])]
        figures.sheet(out / "learnt.png", [row])
        _show(out, [*sections, *_learnt(out, known, len(others), metrics)])
    print(f"\nlisten and look: {out / 'index.html'}\nsounds: {', '.join(sorted(p.name for p in out.glob('*.wav')))}")


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


def _wavenet(path: str | Path) -> WaveNetAutoencoder:
    model = checkpoint.load(path)
    if not isinstance(model, WaveNetAutoencoder):
        raise ValueError(f"{path} holds a {type(model).__name__}: expected a WaveNetAutoencoder")
    return model


@torch.inference_mode()
def _cost(model: WaveNetAutoencoder, note: Note, wave: torch.Tensor) -> float:
    """What a sample of a note costs, in nats: much, if the model does not know its instrument."""
    code = mulaw.encode(wave[None, : wave.numel() // model.hop * model.hop])
    return float(F.cross_entropy(model(code, torch.tensor([note.pitch])), code))


def _encoded(model: WaveNetAutoencoder, note: Note, wave: torch.Tensor) -> Embedding:
    values, fingerprint = embeddings.encode(model, wave), checkpoint.fingerprint(model)
    return Embedding(values, fingerprint, model.hop, audio.SAMPLE_RATE, wave.numel(), note.name, note.pitch)


def _mixed(model: WaveNetAutoencoder, *two: Embedding) -> Embedding:
    """The average of two."""
    a, b = embeddings.align(list(two), "pad", embeddings.silence(model))
    return a._replace(values=embeddings.mix([a.values, b.values], [0.5, 0.5]), source=f"{a.source} + {b.source}")


def _generated(cfg: DictConfig, model: WaveNetAutoencoder, encoded: dict[str, Embedding], out: Path) -> Waves:
    """The sounds of some embeddings, side by side; each is written as soon as it is there."""
    sounds, heard = [sound(model, name, each.values, each.samples, each.pitch) for name, each in encoded.items()], {}
    with tqdm(total=sum(s.samples for s in sounds), desc="generate", unit="sample", unit_scale=True) as bar:
        sampling = Sampling(seed=cfg.seed, temperature=cfg.temperature)
        for index, wave in render(model.decoder, sounds, sampling, bar.update):
            heard[sounds[index].name] = wave
            audio.write(out / f"{sounds[index].name}.wav", wave, comment="made by wavenet_ae's demo")
    return heard


def _learn(cfg: DictConfig, fingerprint: str, others: list[Note], out: Path) -> Path:
    """Learn an instrument from a folder of its notes as a user would, unless an earlier demo did just that; the run."""
    what = [fingerprint, cfg.crop, cfg.threads, cfg.minutes, *(str(note.path.absolute()) for note in others)]
    folder = out / f"learnt-{hashlib.blake2b(repr(what).encode(), digest_size=4).hexdigest()}"
    recordings, corpus, run = folder / "new-instrument", folder / "corpus", folder / "run"
    ended = run / "ended"
    if ended.exists():
        print(f"{run} was trained by an earlier demo: its model is used (delete {folder} to begin anew)")
        return run
    recordings.mkdir(parents=True, exist_ok=True)
    for note in others:
        shutil.copy(note.path, recordings)
    named = "source.pattern=INSTRUMENT-PITCH-VELOCITY"
    _run_to_its_end("wavenet_ae.prepare", ["corpus=own", f"source.input={recordings}", named, f"out={corpus}"])
    if any(run.glob("states/*.safetensors")):
        arguments = [f"resume={run}"]
    else:
        shutil.rmtree(run, ignore_errors=True)  # of a demo that was killed before it kept anything
        arguments = ["experiment=finetune", f"init={cfg.checkpoint}", f"notes.root={corpus}", f"run={run}"]
        arguments += [*(f"{name}={cfg[name]}" for name in ("crop", "threads")), "listen_every=0"]
    _run_to_its_end("wavenet_ae.train", [*arguments, f"minutes={cfg.minutes}"])
    ended.touch()
    return run


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


def _show(out: Path, sections: list[Section]) -> None:
    page.write(out / "index.html", "Two notes, and one that never was", sections)


def _heard(out: Path, first: str, second: str) -> list[Section]:
    return [
        Section(
            "Originals",
            "Two notes of instruments that were held out of the training.",
            [Cell(name, out / f"{name}.original.wav") for name in (first, second)],
        ),
        Section(
            "From 16 numbers every 32 ms",
            "What the model makes of their embeddings, and of the average of the two.",
            [
                Cell(first, out / f"{first}.wav", "reconstruction"),
                Cell(second, out / f"{second}.wav", "reconstruction"),
                Cell("half of each", out / "mix.wav", "a sound that never was"),
            ],
            out / "rainbowgrams.png",
        ),
    ]


def _learnt(out: Path, known: Note, others: int, metrics: list[dict[str, Any]]) -> list[Section]:
    held_out = [line["valid_nats"] for line in metrics if "valid_nats" in line]
    steps = max(int(line["step"]) for line in metrics)
    minutes = max(line["seconds"] for line in metrics) / 60
    return [
        Section(
            "A new instrument learnt",
            f"The same model after {steps:,} steps, {minutes:.1f} minutes in all, on {others} other notes of "
            f"{known.instrument}, a fifth of them held out: these cost {held_out[0]:.2f} nats a sample before and "
            f"{min(held_out):.2f} where that was least, whose model is kept. Your own sounds are learnt alike, by the "
            "two commands that the demo printed.",
            [
                Cell("original", out / f"{known.name}.original.wav"),
                Cell("before", out / f"{known.name}.wav"),
                Cell("after", out / f"{known.name}.learnt.wav", "this note was not among those it learnt from"),
            ],
            out / "learnt.png",
        ),
        Section(
            "The course of it", "Nats a sample; knowing nothing costs ln 256 = 5.55.", picture=out / "training.png"
        ),
    ]


if __name__ == "__main__":
    main()
