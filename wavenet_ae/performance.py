"""A score as sounds to generate, each distinct one once, and what was generated as music."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio, embeddings, synthesis
from wavenet_ae.embeddings import Embedding
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.score import Played
from wavenet_ae.synthesis import Sound


class Style(NamedTuple):
    """How keys are held and let go: the part of a sound gone through meanwhile (None: none), and samples of release."""

    hold: tuple[float, float] | None
    release: int


class Part(NamedTuple):
    """A note of a piece: what is generated for it, how much faster that is played, from when, how long and loud."""

    sound: Sound
    ratio: float
    start: int
    samples: int
    gain: float


class Band(NamedTuple):
    """Who plays: the model, and instruments, each the encodings of some of its notes."""

    model: Autoencoder
    instruments: Sequence[Sequence[Embedding]]
    style: Style

    def parts(self, notes: Sequence[Played]) -> Iterator[Part]:
        """What each note of a piece needs; with several instruments the piece goes from the first to the last."""
        silence = embeddings.silence(self.model).cpu()
        end = max(note.start + note.samples for note in notes)
        for note in notes:
            chosen = self._chosen(note)
            shift = 0 if self.model.pitch is not None else note.pitch - (chosen[0].pitch or 0)
            ratio, samples = 2 ** (shift / 12), note.samples + self.style.release
            frames = -(-round(samples * ratio) // self.model.hop)
            values = [self._held(each.values, frames, silence) for each in chosen]
            way = torch.linspace(note.start / end, (note.start + note.samples) / end, frames, dtype=torch.float64)
            mixed = embeddings.mix(values, embeddings.weights_at(way * (len(values) - 1), len(values)))
            fading = min(frames, -(-round(self.style.release * ratio) // self.model.hop))
            sound = self._sound(embeddings.fade(mixed, silence, fading), note.pitch)
            loudness = sum(each.velocity or 127 for each in chosen) / len(chosen)
            yield Part(sound, ratio, note.start, samples, (note.velocity / loudness) ** 2)

    def _chosen(self, note: Played) -> list[Embedding]:
        """Of each instrument the encoding nearest in pitch, one that all have, and then in velocity."""
        shared = set.intersection(*({each.pitch for each in group} for group in self.instruments))
        pitch = min(shared, key=lambda pitch: (abs((pitch or 0) - note.pitch), pitch or 0))
        return [
            min(
                (each for each in group if each.pitch == pitch),
                key=lambda each: abs((each.velocity or note.velocity) - note.velocity),
            )
            for group in self.instruments
        ]

    def _held(
        self, values: Float[Tensor, "dims given"], frames: int, silence: Float[Tensor, "dims 1"]
    ) -> Float[Tensor, "dims {frames}"]:
        given = values.shape[-1]
        if self.style.hold is None:
            rest = silence.expand(-1, max(0, frames - given))
            return torch.cat([values[:, :frames], rest], dim=-1)
        start = min(int(self.style.hold[0] * given), given - 1)
        stop = max(start + 1, int(self.style.hold[1] * given))
        if frames <= stop:
            return values[:, :frames]
        return embeddings.sustain(values[:, :stop], frames, start, stop, how="loop")

    def _sound(self, values: Float[Tensor, "dims frames"], pitch: int) -> Sound:
        """Called by what it is made of, so that the same note of any piece is one file and one throw of the dice."""
        told = pitch if self.model.pitch is not None else None
        digest = hashlib.blake2b(f"{told} {tuple(values.shape)}".encode(), digest_size=12)
        digest.update(values.contiguous().numpy().tobytes())
        return synthesis.sound(self.model, digest.hexdigest(), values, values.shape[-1] * self.model.hop, told)


def heard(
    parts: Iterable[Part], read: Callable[[str], Float[Tensor, " _"]], release: int
) -> Iterator[tuple[int, float, Float[Tensor, " samples"]]]:
    """Where, how loud and what, for `score.mix`: each sound in tune, as long as its key is held, and let go.

    Args:
        parts: of one piece.
        read: the wave of a sound by its name; asked once for each.
        release: samples of the fade when the key is let go.
    """
    shared: dict[tuple[str, float], list[Part]] = defaultdict(list)
    for part in parts:
        shared[part.sound.name, part.ratio].append(part)
    letting_go = (1 + torch.cos(torch.linspace(0, torch.pi, release))) / 2
    for (name, ratio), alike in shared.items():
        wave = read(name)
        if ratio != 1:
            wave = torch.from_numpy(soxr.resample(wave.numpy(), audio.SAMPLE_RATE * ratio, audio.SAMPLE_RATE, "VHQ"))
        for part in alike:
            heard = torch.zeros(part.samples)
            heard[: len(wave)] = wave[: part.samples]
            heard[-release:] *= letting_go
            yield part.start, part.gain, heard
