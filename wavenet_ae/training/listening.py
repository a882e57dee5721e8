"""What a run sounds like: the same validation notes every time, original beside reconstruction."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard.writer import SummaryWriter

from wavenet_ae import audio, figures, synthesis
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.notes import Note
from wavenet_ae.synthesis import Sampling

log = logging.getLogger("wavenet_ae")


class Listener:
    """Reconstructs the first `seconds` of notes into a run's folder and TensorBoard; what cannot be read is named."""

    def __init__(
        self, notes: Sequence[Note], *, seconds: float, sampling: Sampling, folder: Path, board: SummaryWriter
    ):
        self.sampling, self.folder, self.board = sampling, folder, board
        self.notes: list[Note] = []
        self.waves: list[torch.Tensor] = []
        for note in notes:
            try:
                wave = audio.read(note.path)[: round(seconds * audio.SAMPLE_RATE)]
            except (ValueError, OSError) as error:
                log.warning("%s will not be listened to: %s", note.name, error)
                continue
            self.notes.append(note)
            self.waves.append(wave)

    def __call__(self, model: Autoencoder, step: int) -> None:
        """Write originals once and reconstructions for this step."""
        if not self.notes:
            return
        sounds = []
        with torch.inference_mode():
            for note, wave in zip(self.notes, self.waves, strict=True):
                embedding = model.embed(wave[None].to(model.device))[0]
                sounds.append(synthesis.sound(model, note.name, embedding, wave.numel(), note.pitch))
        for index, wave in synthesis.render(model.decoder, sounds, self.sampling):
            note = self.notes[index]
            self._write(note, "original", 0, self.waves[index])
            self._write(note, f"step-{step:08d}", step, wave)
            pair = np.concatenate([figures.rainbowgram(each)[::-1] for each in (self.waves[index], wave)], axis=1)
            self.board.add_image(f"{note.name}/original, reconstruction", pair, step, dataformats="HWC")

    def _write(self, note: Note, what: str, step: int, wave: torch.Tensor) -> None:
        path = self.folder / f"{note.name}.{what}.wav"
        if not path.exists():
            audio.write(path, wave, comment=f"{note.name}, {what}; wavenet_ae")
            self.board.add_audio(f"{note.name}/{what.split('-')[0]}", wave[None], step, sample_rate=audio.SAMPLE_RATE)
