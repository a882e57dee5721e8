"""Sounds as numbers: embedding files, the encoding of sounds of any length, and arithmetic on what is encoded.

The arithmetic works on the values alone, [dims, frames]; lengths, and whether two sounds may meet at all, are
matters of the whole `Embedding`: `align` comes first.
"""

from wavenet_ae.embeddings.mixing import (
    analogy,
    check_weights,
    grid,
    line,
    mix,
    scale,
    slerp,
    steps_between,
    weights_at,
)
from wavenet_ae.embeddings.store import SUFFIXES, Embedding, encode, obtain, of_file, read, silence, write
from wavenet_ae.embeddings.time import ALIGNMENTS, CURVES, align, crossfade, fade, morph, stretch, sustain

__all__ = [
    "ALIGNMENTS",
    "CURVES",
    "SUFFIXES",
    "Embedding",
    "align",
    "analogy",
    "check_weights",
    "crossfade",
    "encode",
    "fade",
    "grid",
    "line",
    "mix",
    "morph",
    "obtain",
    "of_file",
    "read",
    "scale",
    "silence",
    "slerp",
    "steps_between",
    "stretch",
    "sustain",
    "weights_at",
    "write",
]
