"""From sounds to numbers: a row of measurements for each note, and their summary with intervals."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wavenet_ae.metrics import accuracy, bootstrap, constant_q, frechet, likelihood, pitch, spectral
from wavenet_ae.metrics.bootstrap import Estimate
from wavenet_ae.notes import Note

ORIGINAL = "original"
Row = dict[str, Any]
Features = Mapping[str, Float[np.ndarray, "_ _"]]  # of one sound, [windows, numbers], by the measure they are for


class Measure(NamedTuple):
    """A row of the table: what it is called, its unit, and which way is better (or "" if neither)."""

    title: str
    unit: str
    better: str


MEASURES = {
    "nats": Measure("negative log-likelihood", "nats/sample", "lower"),
    "bits": Measure("negative log-likelihood", "bits/sample", "lower"),
    "spectral_db": Measure("log-spectral distance", "dB", "lower"),
    "constant_q": Measure("constant-Q magnitude error", "ratio", "lower"),
    "cents": Measure("pitch error, median", "cents", "lower"),
    "voicing": Measure("voicing agreement", "share", "higher"),
    "pitch": Measure("pitch heard right", "share", "higher"),
    "pitch_balanced": Measure("pitch heard right, classes alike", "share", "higher"),
    "family": Measure("family heard right", "share", "higher"),
    "family_balanced": Measure("family heard right, classes alike", "share", "higher"),
    "source": Measure("source heard right", "share", "higher"),
    "source_balanced": Measure("source heard right, classes alike", "share", "higher"),
    "frechet": Measure("Frechet distance, classifier's features", "none", "lower"),
    "frechet_vggish": Measure("Frechet distance, VGGish", "none", "lower"),
    "frechet_cnn14": Measure("Frechet distance, CNN14 of PANNs (16 kHz)", "none", "lower"),
    "probe_pitch": Measure("pitch read off the mean embedding, classes alike", "share", ""),
    "probe_pitch_frames": Measure("pitch read off single frames, classes alike", "share", ""),
    "probe_family": Measure("family read off the mean embedding, classes alike", "share", ""),
    "probe_family_frames": Measure("family read off single frames, classes alike", "share", ""),
}


def labels(note: Note) -> Row:
    """What is known of a note; an unknown is None."""
    return {
        "note": note.name,
        "instrument": note.instrument,
        "velocity": note.velocity,
        **{what: note.label(what) for what in ("pitch", "family", "source")},
    }


def compare(
    original: Float[Tensor, " samples"],
    made: Float[Tensor, " samples"],
    tracks: tuple[pitch.Track, pitch.Track],
) -> dict[str, float]:
    """What can be measured of one original and what was made of it."""
    return {
        "spectral_db": spectral.distance(original, made),
        "constant_q": constant_q.error(original, made),
        "cents": pitch.cents(*tracks),
        "voicing": pitch.voicing(*tracks),
    }


def summary(rows: Sequence[Row]) -> dict[str, Estimate]:
    """One model's rows as a table's column: only what could be measured of one note at least."""
    columns = {key: np.array([_number(row.get(key)) for row in rows]) for key in ("nats", *_MEANS)}
    found = {key: bootstrap.mean(columns[key]) for key in ("nats", *_MEANS)}
    found["bits"] = bootstrap.mean(likelihood.bits(columns["nats"]))
    found["cents"] = bootstrap.median(np.array([_number(row.get("cents")) for row in rows]))
    for what in ("pitch", "family", "source"):
        told = [row for row in rows if f"heard_{what}" in row and row[what] is not None]
        right = np.array([float(row[what] == row[f"heard_{what}"]) for row in told])
        found[what] = accuracy.plain(right)
        found[f"{what}_balanced"] = accuracy.balanced(right, [row[what] for row in told])
    for key in [key for key in MEASURES if key.startswith("probe_")]:
        told = [row for row in rows if not math.isnan(_number(row.get(key)))]
        found[key] = accuracy.balanced(np.array([row[key] for row in told]), [row[key.split("_")[1]] for row in told])
    return {key: found[key] for key in MEASURES if key in found and found[key].notes}


def cloud_distances(
    originals: Sequence[Features], made: Sequence[Features]
) -> tuple[dict[str, Estimate], dict[str, dict[str, int | float]]]:
    """The Frechet distance in each kind of features, and what it rests on; none where there are too few windows."""
    distances, about = {}, {}
    for key in originals[0]:
        pair = [[features[key] for features in group] for group in (originals, made)]
        if sum(map(len, pair[0])) < 2:
            continue
        clouds = [frechet.fit(np.concatenate(each)) for each in pair]
        distances[key] = frechet.distance(*pair)
        about[key] = {
            "windows": clouds[0].samples,
            "dims": len(clouds[0].mean),
            "shrinkage_originals": clouds[0].shrinkage,
            "shrinkage_made": clouds[1].shrinkage,
        }
    return distances, about


def absent(
    table: Mapping[str, Mapping[str, Estimate]], rows: Sequence[Row], listeners: Collection[str], *, has_known: bool
) -> list[str]:
    """What was left out, and why, in sentences; `listeners` are those whose features there are, by their measures."""
    said = []
    for what in ("pitch", "family", "source"):
        if without := sum(row[what] is None for row in rows):
            said.append(f"{without} of {len(rows)} notes have no {what}: they do not count where it is asked for")
    if "frechet" not in listeners:
        said.append(
            "no classifier was given: what is heard right and the Frechet distance in its features are left out"
        )
    if not has_known:
        said.append("there are no other notes to learn from: what is read off embeddings is left out")
    for name, column in table.items():
        if name != ORIGINAL:
            said += [f"{name}: {why}" for key, why in _WHY.items() if key not in column and (has_known or key in _OWN)]
            if listeners and not set(listeners) & set(column):
                said.append(f"{name}: a Frechet distance needs two windows of sound, of about a second each")
    return said


_MEANS = ("spectral_db", "constant_q", "voicing")
_OWN = {
    "nats": "it has no likelihood, for it gives no probabilities to samples",
    "cents": "in no frame have both it and the original a pitch",
}
_WHY = _OWN | {
    f"probe_{what}": f"{what} is not read off embeddings: the notes to learn from teach no two classes, or not these"
    for what in ("pitch", "family")
}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
