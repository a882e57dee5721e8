"""The parts of the report: tables, pictures and sounds of what was evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wavenet_ae import audio, figures
from wavenet_ae.evaluate.measure import Heard, Verdict
from wavenet_ae.evaluate.report import Show, Table, balance, results
from wavenet_ae.evaluate.scores import ORIGINAL
from wavenet_ae.notes import Note
from wavenet_ae.tables import Grid, cell, number

_COSTS = {
    "parameters": "parameters",
    "encode_s": "seconds to encode a second",
    "generate_s": "seconds to make a second",
    "memory_mb": "peak memory (MB)",
    "embedding_dims": "numbers a frame",
    "hop": "samples a frame",
}

_RAINBOWS = (
    "Rainbowgrams: pitch over time; brightness is the level below each sound's own loudest point, black from 70 dB on; "
    "hue is how the phase turns, so that a steady partial has one colour."
)
_SHRUNK = {"shrinkage_originals": "shrunk, originals", "shrinkage_made": "shrunk, made"}
_DISTANCES = (
    "Each second of sound or so is a point; two clouds of points are compared. Few points leave the shape of a cloud "
    "open, so that some of its covariance is not theirs but a sphere's: that share is what was shrunk (Ledoit and Wolf "
    "2004). Distances compare in the same features of the same notes only."
)


def shows(
    folder: Path,
    table: Table,
    originals: Heard,
    verdicts: Mapping[str, Verdict],
    shown: Sequence[int],
    remarks: Sequence[str],
) -> list[Show]:
    """Everything the report says, its pictures drawn into `folder` and its sounds written there."""
    said = (
        "In brackets: 95% intervals by bootstrap over notes. One without width says that all of these few notes agree, "
        "not that others would; a dash, that this is not measured there."
    )
    parts = [Show("Results", "\n".join([said, *(f"Left out: {remark}." for remark in remarks)]), results(table))]
    parts += [_note(folder, originals, verdicts, place) for place in shown]
    parts += _embeddings(folder, originals, verdicts, shown)
    parts.append(Show("Cost", "On this machine, several notes side by side.", _costs(verdicts)))
    parts.append(_balance(folder, originals.notes))
    return parts


def distances(table: Table, verdicts: Mapping[str, Verdict], listeners: Mapping[str, Mapping[str, str]]) -> list[Show]:
    """What each Frechet distance rests on: whose features, of how many windows, how much their clouds were shrunk."""
    heading = ["features of", "weights", "model", "distance", "notes", "windows", "numbers each", *_SHRUNK.values()]
    rows = []
    for name, verdict in verdicts.items():
        for key, about in verdict.about["frechet"].items():
            found = table[name][key]
            who = [listeners[key][each] for each in ("network", "fingerprint")]
            counts = [str(found.notes), *(str(about[each]) for each in ("windows", "dims"))]
            rows.append([*who, name, cell(found), *counts, *(f"{about[each]:.0%}" for each in _SHRUNK)])
    return [Show("Frechet distances", _DISTANCES, [heading, *rows])] if rows else []


def _note(folder: Path, originals: Heard, verdicts: Mapping[str, Verdict], place: int) -> Show:
    """One note as it is and as each model makes it: players, rainbowgrams, harmonics where it has a pitch."""
    note = originals.notes[place]
    sounds = {ORIGINAL: originals.waves[place]} | {name: each.waves[place] for name, each in verdicts.items()}
    paths = {name: folder / f"{note.name}.{name}.wav" for name in sounds}
    for name, wave in sounds.items():
        audio.write(paths[name], wave, comment=f"{note.name}, {name}; wavenet_ae")
    pictures = [folder / f"{note.name}.rainbowgrams.png", folder / f"{note.name}.spectrograms.png"]
    figures.sheet(pictures[0], [list(sounds.items())])
    figures.spectrogram(pictures[1], list(sounds.items()))
    said = [_RAINBOWS, "Spectrograms: level in dB below the loudest point of all."]
    if note.pitch and (hz := 440 * 2 ** ((note.pitch - 69) / 12)) < audio.SAMPLE_RATE / 2:
        pictures.append(folder / f"{note.name}.harmonics.png")
        figures.harmonics(pictures[-1], list(sounds.items()), hz=hz)
        said.append(f"Levels of the first harmonics of MIDI pitch {note.pitch} ({hz:.0f} Hz) over time.")
    return Show(note.name, "\n".join(said), (), pictures, paths)


def _embeddings(folder: Path, originals: Heard, verdicts: Mapping[str, Verdict], shown: Sequence[int]) -> list[Show]:
    """Where each model puts the notes, and the embedding of the first note shown where it has a course in time."""
    parts = []
    for name, verdict in verdicts.items():
        pictures, said = [], []
        if len(originals.notes) > 1:
            said.append("Each note's embedding, averaged over time, on its two principal axes.")
            pictures.append(folder / f"{name}.scatter.png")
            points = np.stack([each.mean(axis=1) for each in verdict.embeddings])
            labels = [note.pitch for note in originals.notes], [note.family for note in originals.notes]
            figures.scatter(pictures[-1], points, *labels, title=name)
        timed = [place for place in shown if verdict.embeddings[place].shape[1] > 1]
        if timed:
            said.append("One of them over time: a row for each of its numbers.")
            pictures.append(folder / f"{name}.embedding.png")
            title = f"{name}: {originals.notes[timed[0]].name}"
            figures.embedding(pictures[-1], verdict.embeddings[timed[0]], hop=verdict.about["hop"], title=title)
        if pictures:
            parts.append(Show(f"Embeddings of {name}", "\n".join(said), (), pictures))
    return parts


def _costs(verdicts: Mapping[str, Verdict]) -> Grid:
    rows = [["told the pitch", *("yes" if each.about["pitch_conditioning"] else "no" for each in verdicts.values())]]
    rows += [[title, *(number(each.about[key]) for each in verdicts.values())] for key, title in _COSTS.items()]
    return [["", *verdicts], *rows]


def _balance(folder: Path, notes: Sequence[Note]) -> Show:
    """How many notes there are of each kind, as a picture, and the kinds there are most and fewest of."""
    counts = balance(notes)
    instruments = counts.pop("instruments")["all"]
    rows = [["instrument", str(instruments), "", ""]]
    for what, found in counts.items():
        order = sorted(found, key=found.__getitem__)
        fewest, most = order[0], order[-1]
        rows.append([what, str(len(found)), f"{most} ({found[most]})", f"{fewest} ({found[fewest]})"])
    picture = folder / "balance.png"
    figures.bars(picture, counts, up="notes")
    text = f"{len(notes)} notes: how they are spread over the corpus' labels."
    return Show("The notes", text, [["", "different", "most notes", "fewest notes"], *rows], [picture])
