"""One model on trial: its embeddings, its reconstructions, what it finds likely, and what that costs."""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio, embeddings, files, mulaw, synthesis
from wavenet_ae.audio import SAMPLE_RATE
from wavenet_ae.metrics import likelihood
from wavenet_ae.models import wavenet
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.notes import Note
from wavenet_ae.synthesis import Sampling, Sound

_FRAMES = 16  # scored at a time: all log-probabilities of eight voices are 67 MB then
Progress = Callable[[int], object]


class Cost(NamedTuple):
    """What a second of sound costs here; NaN where it was not measured."""

    parameters: int
    encode_s: float
    generate_s: float
    memory_mb: float


@dataclass(frozen=True)
class Trial:
    """A model by the name it goes by in tables; `folder` keeps the sounds it makes, so that none is made twice."""

    name: str
    model: Autoencoder
    fingerprint: str
    folder: Path

    def check(self, notes: Sequence[Note]) -> None:
        """Refuse notes that the model cannot make, before long work.

        Raises:
            ValueError: it must be told the pitch, and a note has none.
        """
        without = [note.name for note in notes if not note.pitch]
        if self.model.pitch is not None and without:
            raise ValueError(
                f"{self.name} is conditioned on pitch and {len(without)} notes have none ({', '.join(without[:3])}): "
                "leave them out by notes.pitches=[1,127]"
            )

    def forget(self) -> None:
        """Delete the sounds made earlier."""
        for earlier in self.folder.glob("*.wav"):
            earlier.unlink()

    def embed(
        self, waves: Sequence[Float[Tensor, " _"]], progress: Progress
    ) -> tuple[list[Float[Tensor, "dims _"]], float]:
        """The embedding of each sound, and how many seconds a second of sound took."""
        started, values = time.perf_counter(), []
        for wave in waves:
            values.append(embeddings.encode(self.model, wave))
            progress(1)
        return values, (time.perf_counter() - started) * SAMPLE_RATE / max(1, sum(wave.numel() for wave in waves))

    def sounds(
        self, notes: Sequence[Note], waves: Sequence[Float[Tensor, " _"]], values: Sequence[Float[Tensor, "dims _"]]
    ) -> list[Sound]:
        """What is to be heard of each note's embedding."""
        triples = zip(notes, waves, values, strict=True)
        return [
            synthesis.sound(self.model, note.name, each, wave.numel(), note.pitch or None)
            for note, wave, each in triples
        ]

    def reconstruct(self, sounds: Sequence[Sound], sampling: Sampling, progress: Progress) -> float:
        """Write those sounds that `folder` lacks; how many seconds a second of sound took, NaN if that is not known."""
        missing = [sound for sound in sounds if not self._place(sound).exists()]
        progress(sum(sound.samples for sound in sounds) - sum(sound.samples for sound in missing))
        measured = self.folder / "cost.json"
        if not missing:
            return float(json.loads(measured.read_text())["generate_s"]) if measured.exists() else math.nan
        made = f"wavenet_ae: machine-made; model {self.fingerprint}, seed {sampling.seed}"
        started = time.perf_counter()
        for index, wave in synthesis.render(self.model.decoder, missing, sampling, progress):
            audio.write(self._place(missing[index]), wave, comment=made)
        taken = (time.perf_counter() - started) * SAMPLE_RATE / sum(sound.samples for sound in missing)
        with files.whole(measured) as partial:
            partial.write_text(json.dumps({"generate_s": taken}))
        return taken

    def heard(self, sound: Sound) -> Float[Tensor, " samples"]:
        """What the model made of a sound, as it was written."""
        return audio.read(self._place(sound))

    def nats(
        self, sounds: Sequence[Sound], waves: Sequence[Float[Tensor, " _"]], sampling: Sampling, progress: Progress
    ) -> list[float]:
        """What a sample of each original costs the model on average; NaN for models without a likelihood."""
        if not isinstance(self.model.decoder, wavenet.Decoder):
            return [math.nan] * len(waves)
        order = sorted(range(len(waves)), key=lambda i: waves[i].numel())
        costs: dict[int, float] = {}
        for first in range(0, len(order), sampling.batch):
            chosen = order[first : first + sampling.batch]
            found = self._score([sounds[i] for i in chosen], [waves[i] for i in chosen], sampling, progress)
            costs |= dict(zip(chosen, found, strict=True))
        return [costs[i] for i in range(len(waves))]

    def _score(
        self, sounds: Sequence[Sound], waves: Sequence[Tensor], sampling: Sampling, progress: Progress
    ) -> list[float]:
        """The codes of a few notes forced through as many voices, some frames at a time."""
        hop, frames = self.model.hop, max(sound.embedding.shape[-1] for sound in sounds)
        code = torch.stack([_fit(mulaw.encode(wave), frames * hop, mulaw.SILENCE) for wave in waves])
        embedding = torch.stack([_fit(sound.embedding, frames, 0) for sound in sounds])
        code, samples = code.to(embedding.device), torch.tensor([wave.numel() for wave in waves])
        assert isinstance(self.model.decoder, wavenet.Decoder)
        voices = sampling.open(self.model.decoder, len(sounds))
        total = torch.zeros(len(sounds), dtype=torch.float64)
        for start in range(0, frames, _FRAMES):
            now = slice(start * hop, (start + _FRAMES) * hop)
            cost = likelihood.nats(voices.score(embedding[:, :, start : start + _FRAMES], code[:, now]), code[:, now])
            counts = torch.arange(now.start, now.start + cost.shape[1]) < samples[:, None]
            total += (cost.cpu() * counts).sum(dim=1)
            progress(int(counts.sum()))
        return (total / samples).tolist()

    def _place(self, sound: Sound) -> Path:
        return self.folder / f"{sound.name}.wav"


def forget_peak(device: torch.device) -> None:
    """Let `peak_mb` count from here, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux alone
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: torch.device) -> float:
    """The most memory in use: of the GPU where the model is on one, else of this process, Python and all; or NaN."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 2**10 if found else math.nan
    return math.nan


def _fit(values: Tensor, length: int, fill: int) -> Tensor:
    return F.pad(values, (0, length - values.shape[-1]), value=fill)
