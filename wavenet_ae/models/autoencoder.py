"""What every autoencoder of sounds is, so that those who use one need not ask which."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

PITCHES = 128  # MIDI's


class Autoencoder(nn.Module, ABC):
    """A wave becomes an embedding, a column of `embedding_dims` numbers each `hop` samples; `decoder` reads it.

    `pitch` holds a learned vector for each MIDI pitch where the decoder is told the pitch too, so that the embedding
    need not carry it (section 4.2.2 of Engel et al. 2017); else it is None. How what the decoder makes becomes a wave
    is a matter of `synthesis`.
    """

    hop: int
    embedding_dims: int
    decoder: nn.Module
    pitch: nn.Embedding | None

    @property
    @abstractmethod
    def context(self) -> int:
        """How many samples either side of a frame can change it."""

    @abstractmethod
    def embed(self, wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch dims frames"]:
        """Embeddings of waves of one length, padded with silence to whole frames."""

    @abstractmethod
    def condition(
        self, embedding: Float[Tensor, "batch dims frames"], pitch: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch read frames"]:
        """What the decoder reads: the embedding, and the pitch's vector if the model was trained with it.

        Raises:
            ValueError: as `pitch_vectors`.
        """

    def pitch_vectors(self, pitch: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch width 1"] | None:
        """The vectors of pitches, None if the model is not conditioned on pitch.

        Raises:
            ValueError: it is, and no pitch, or one outside 0 to 127, was given.
        """
        if self.pitch is None:
            return None
        if pitch is None or bool(((pitch < 0) | (pitch >= PITCHES)).any()):
            raise ValueError(
                f"this model is conditioned on pitch and was given {pitch}: expected MIDI pitches 0 to 127"
            )
        return self.pitch(pitch).unsqueeze(-1)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device
