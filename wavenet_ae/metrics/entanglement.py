"""Entanglement: how well a linear classifier reads pitch or family off embeddings, 0 to 1; neither way is better.

The paper's question (section 4.3): an embedding that need not carry the pitch should not tell it. Accuracy on notes
that the classifier did not see, of instruments that it did not see where the corpus' splits share none.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wavenet_ae.notes import Note

ROWS = 20_000  # frames, or means, to learn from at most, evenly spread
KINDS = ("mean", "frames")  # of embeddings: averaged over time, or each frame by itself


def read_off(
    known: Sequence[Float[np.ndarray, "dims _"]],
    known_notes: Sequence[Note],
    asked: Sequence[Float[np.ndarray, "dims _"]],
    asked_notes: Sequence[Note],
) -> dict[tuple[str, str], Float[np.ndarray, " notes"]]:
    """How well linear classifiers read pitch and family off each note's embedding, by what is read and of which kind.

    NaN where they cannot be asked; nothing at all if there are no notes to learn from.
    """
    found = {}
    for what in ("pitch", "family") if known else ():
        truth = [note.label(what) for note in known_notes]
        there = [i for i, label in enumerate(truth) if label is not None]
        expected = [note.label(what) for note in asked_notes]
        for kind, probe in zip(KINDS, (of_means, of_frames), strict=True):
            if len({truth[i] for i in there}) < 2:
                found[what, kind] = np.full(len(asked), np.nan)
            else:
                found[what, kind] = probe([known[i] for i in there], [truth[i] for i in there], asked, expected)
    return found


def of_means(
    known: Sequence[Float[np.ndarray, "dims _"]],
    truth: Sequence[Hashable],
    asked: Sequence[Float[np.ndarray, "dims _"]],
    expected: Sequence[Hashable],
) -> Float[np.ndarray, " notes"]:
    """For each note asked of, embeddings being averaged over time: 1 if the answer is right, 0 if not.

    NaN where the true class was never learnt. `known` and `truth` are the embeddings and classes to learn from.

    Raises:
        ValueError: there are not two classes to learn.
    """
    averages = [[each.mean(axis=1, keepdims=True) for each in group] for group in (known, asked)]
    return of_frames(averages[0], truth, averages[1], expected)


def of_frames(
    known: Sequence[Float[np.ndarray, "dims _"]],
    truth: Sequence[Hashable],
    asked: Sequence[Float[np.ndarray, "dims _"]],
    expected: Sequence[Hashable],
) -> Float[np.ndarray, " notes"]:
    """As `of_means`, but each frame is asked by itself: the share of a note's frames that are right."""
    classes = sorted(set(truth), key=str)
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} classes to tell apart in {len(known)} notes: expected at least two")
    labels = np.repeat([classes.index(each) for each in truth], [each.shape[1] for each in known])
    frames = np.concatenate([each.T for each in known]).astype(np.float64)
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), ROWS)).round().astype(int)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, tol=1e-3))
    probe.fit(frames[chosen], labels[chosen])

    def right(embedding: np.ndarray, true: Hashable) -> float:
        if true not in classes:
            return np.nan
        answers: Bool[np.ndarray, " frames"] = probe.predict(embedding.T.astype(np.float64)) == classes.index(true)
        return float(answers.mean())

    return np.array([right(*pair) for pair in zip(asked, expected, strict=True)], dtype=np.float64)
