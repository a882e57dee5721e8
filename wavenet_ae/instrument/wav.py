"""WAV files that know their pitch and loop: the `smpl` chunk, which libsndfile does not write."""

import struct
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio, files
from wavenet_ae.instrument.loops import Loop

_HEAD = struct.Struct(
    "<9I"
)  # manufacturer, product, ns a sample, pitch, its fraction, SMPTE format, offset, loops, more
_LOOP = struct.Struct("<6I")  # its number, 0 forward, first sample, last sample, fraction, 0 for ever


def write(
    path: str | Path, wave: Float[Tensor, " samples"], *, pitch: int, loop: Loop | None = None, comment: str = ""
) -> None:
    """Write a 16-bit 16 kHz wav with its MIDI pitch and, if there is one, its loop; whole or not at all.

    Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0, and its new types of 1994.

    Raises:
        ValueError, OSError: as `audio.write`.
    """
    loops = [] if loop is None else [_LOOP.pack(0, 0, loop.start, loop.stop - 1, 0, 0)]
    period_ns = round(1e9 / audio.SAMPLE_RATE)
    body = _HEAD.pack(0, 0, period_ns, pitch, 0, 0, 0, len(loops), 0) + b"".join(loops)
    with files.whole(path) as partial:
        audio.write(partial, wave, comment=comment)
        data = partial.read_bytes()
        data += bytes(len(data) % 2) + b"smpl" + struct.pack("<I", len(body)) + body
        partial.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
