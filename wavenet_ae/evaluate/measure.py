"""All that is measured: of the originals once, and of each model on trial."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from wavenet_ae import audio
from wavenet_ae.evaluate import scores
from wavenet_ae.evaluate.ears import Ears
from wavenet_ae.evaluate.scores import ORIGINAL, Features, Row
from wavenet_ae.evaluate.trial import Cost, Trial, forget_peak, peak_mb
from wavenet_ae.metrics import entanglement, pitch
from wavenet_ae.metrics.bootstrap import Estimate
from wavenet_ae.notes import Note
from wavenet_ae.synthesis import Sampling


class Heard(NamedTuple):
    """The notes, what is heard of each, and the features that listeners have of it."""

    notes: list[Note]
    waves: list[Float[Tensor, " _"]]
    tracks: list[pitch.Track]
    features: list[Features]


class Verdict(NamedTuple):
    """What came of a trial."""

    rows: list[Row]
    column: dict[str, Estimate]
    about: dict[str, Any]
    embeddings: list[Float[np.ndarray, "dims _"]]
    waves: list[Float[Tensor, " _"]]


def listen(chosen: list[Note], length: int | None, ears: Ears) -> tuple[Heard, list[Row]]:
    """The originals, their first `length` samples or all, and a row for each."""
    heard, rows = Heard(chosen, [], [], []), []
    for note in tqdm(chosen, desc="originals", unit="note"):
        wave = audio.read(note.path)[:length]
        heard.waves.append(wave)
        heard.tracks.append(pitch.track(wave))
        heard.features.append(ears.features(wave))
        rows.append({"model": ORIGINAL, **scores.labels(note), "samples": wave.numel(), **ears.answers(wave)})
    return heard, rows


def tried(
    trial: Trial, originals: Heard, known: list[Note], ears: Ears, sampling: Sampling, length: int | None
) -> Verdict:
    """Let a model embed and reconstruct all originals, and measure what comes of it.

    Linear classifiers learn to read its embeddings on the notes `known`, if there are any.
    """
    total = sum(wave.numel() for wave in originals.waves)
    forget_peak(trial.model.device)
    with tqdm(total=len(originals.notes) + len(known), desc=f"{trial.name}: encode", unit="note") as bar:
        values, encode_s = trial.embed(originals.waves, bar.update)
        known_values, _ = trial.embed([audio.read(note.path)[:length] for note in known], bar.update)
    sounds = trial.sounds(originals.notes, originals.waves, values)
    with tqdm(total=total, desc=f"{trial.name}: generate", unit="sample", unit_scale=True) as bar:
        generate_s = trial.reconstruct(sounds, sampling, bar.update)
    cost = Cost(sum(p.numel() for p in trial.model.parameters()), encode_s, generate_s, peak_mb(trial.model.device))
    with tqdm(total=total, desc=f"{trial.name}: likelihood", unit="sample", unit_scale=True) as bar:
        nats = trial.nats(sounds, originals.waves, sampling, bar.update)
    arrays, known_arrays = ([each.cpu().numpy() for each in group] for group in (values, known_values))
    probed = {
        f"probe_{what}{'_frames' * (kind == 'frames')}": right
        for (what, kind), right in entanglement.read_off(known_arrays, known, arrays, originals.notes).items()
    }
    rows, waves, features = [], [], []
    for i, note in enumerate(tqdm(originals.notes, desc=f"{trial.name}: compare", unit="note")):
        wave = trial.heard(sounds[i])
        waves.append(wave)
        measured = scores.compare(originals.waves[i], wave, (originals.tracks[i], pitch.track(wave)))
        row = {"model": trial.name, **scores.labels(note), "samples": wave.numel(), "nats": nats[i], **measured}
        features.append(ears.features(wave))
        rows.append(row | ears.answers(wave) | {key: float(found[i]) for key, found in probed.items()})
    distances, clouds = scores.cloud_distances(originals.features, features)
    about = _about(trial, cost) | {"frechet": clouds}
    return Verdict(rows, scores.summary(rows) | distances, about, arrays, waves)


def _about(trial: Trial, cost: Cost) -> dict[str, Any]:
    return {
        "fingerprint": trial.fingerprint,
        "kind": type(trial.model).__name__,
        "hop": trial.model.hop,
        "embedding_dims": trial.model.embedding_dims,
        "pitch_conditioning": trial.model.pitch is not None,
        **cost._asdict(),
    }
