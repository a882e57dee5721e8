"""Magenta's variable names and shapes <-> our spectral autoencoder, its baseline `nfft_1024`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ENCODER = ("0", "1", "2", "3", "4", "5", "6", "7", "7_1", "8")
_DECODER = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "8_1")
_PITCH = "decoder/PitchEmbedding/embedding_weights"
_NORM = {"offset": "beta", "mean": "moving_mean", "variance": "moving_variance"}

Shapes = Mapping[str, tuple[int, ...]]


def is_held(shapes: Shapes) -> bool:
    """Whether these are variables of the baseline, complete or not."""
    return any(name.startswith(("encoder/0_Layer/", "encoder/z_Layer/")) for name in shapes)


def describe(shapes: Shapes) -> dict[str, Any]:
    """The `model` node of the baseline with these variables, all of whose sizes their shapes tell.

    Raises:
        ValueError: one that tells a size is missing.
    """
    layers = [f"encoder/{name}_Layer/{name}/weights" for name in (*_ENCODER, "z")]
    missing = [name for name in layers if len(shapes.get(name, ())) != 4]
    if missing:
        raise ValueError(f"it is a checkpoint of NSynth's baseline without {', '.join(missing)}: copy it again")
    *channels, latent = (shapes[name][3] for name in layers)
    return {
        "_target_": "wavenet_ae.models.spectral.SpectralAutoencoder",
        "channels": channels,
        "latent": latent,
        "pitch_conditioning": _PITCH in shapes,
        "variational": False,
        "momentum": 0.001,
    }


def variables(description: Mapping[str, Any]) -> dict[str, str]:
    """Our parameters' and statistics' names -> Magenta's variable names, for the model described."""
    layers = {f"encoder.layers.{i}": f"encoder/{name}_Layer/{name}" for i, name in enumerate(_ENCODER)}
    layers |= {"encoder.mean": "encoder/z_Layer/z"}
    layers |= {f"decoder.layers.{i}": f"decoder/{name}_Layer/{name}" for i, name in enumerate(_DECODER)}
    names = {f"{ours}.conv.weight": f"{theirs}/weights" for ours, theirs in layers.items()}
    for ours, theirs in layers.items():
        names |= {f"{ours}.norm.{our}": f"{theirs}/BatchNorm/{their}" for our, their in _NORM.items()}
    names |= {"decoder.out.weight": "decoder/mag_Layer/mag/weights", "decoder.out.bias": "decoder/mag_Layer/mag/biases"}
    return names | ({"pitch.weight": _PITCH} if description["pitch_conditioning"] else {})


def to_ours(variable: np.ndarray) -> Tensor:
    """A copy in our layout, float32: [height, width, a, b] becomes [b, a, height, width], the rest stays.

    Convolutions are [.., in, out] there and transposed ones [.., out, in]; ours have both the other way round.
    """
    ours = variable.transpose(3, 2, 0, 1) if variable.ndim == 4 else variable
    return torch.from_numpy(np.array(ours, np.float32, order="C"))


def their_shape(ours: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the variable that fills a parameter of this shape."""
    return (ours[2], ours[3], ours[1], ours[0]) if len(ours) == 4 else ours
