"""Where validation notes lie among each other, for TensorBoard's embedding projector: mean embeddings and labels.

projector/step-*.tsv          a note a line: its embedding, averaged over time
projector/step-*.notes.tsv    what the lines are: name, pitch, family, instrument, source, velocity
projector_config.pbtxt        where TensorBoard finds them, the newest first

Files of our own, not SummaryWriter.add_embedding: that one forgets at every resumption what was there before.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from wavenet_ae import audio, files
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.notes import Note

LABELS = ("name", "pitch", "family", "instrument", "source", "velocity")

log = logging.getLogger("wavenet_ae")


class Projector:
    """Writes the mean embeddings of the first `seconds` of some notes into a run's folder."""

    def __init__(self, notes: Sequence[Note], *, seconds: float, folder: Path):
        self.notes, self.folder = list(notes), folder
        self.samples = round(seconds * audio.SAMPLE_RATE)

    def __call__(self, model: Autoencoder, step: int) -> None:
        """Embed what can be read; a note that cannot be is named once and left out."""
        means = []
        for note in list(self.notes):
            try:
                wave = audio.read(note.path)[: self.samples]
            except (ValueError, OSError) as error:
                log.warning("%s is left out of the projector: %s", note.name, error)
                self.notes.remove(note)
                continue
            with torch.inference_mode():
                means.append(model.embed(wave[None].to(model.device))[0].mean(dim=-1).tolist())
        if means:
            self._write(f"step-{step:08d}", means)

    def _write(self, name: str, means: Sequence[Sequence[float]]) -> None:
        labels = [LABELS, *([getattr(note, label) for label in LABELS] for note in self.notes)]
        for suffix, rows in ((".tsv", means), (".notes.tsv", labels)):
            with files.whole(self.folder / "projector" / f"{name}{suffix}") as partial:
                partial.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
        there = sorted((path.name.split(".")[0] for path in self.folder.glob("projector/*.notes.tsv")), reverse=True)
        with files.whole(self.folder / "projector_config.pbtxt") as partial:
            partial.write_text("".join(_ENTRY.format(name=each) for each in there))


_ENTRY = """embeddings {{
  tensor_name: "{name}"
  tensor_path: "projector/{name}.tsv"
  metadata_path: "projector/{name}.notes.tsv"
}}
"""
