"""Embedding files, and the encoding of sounds of any length."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wavenet_ae import audio, files, notes
from wavenet_ae.models.autoencoder import Autoencoder

SUFFIXES = (".npz", ".npy")
_CHUNK = 256 * 512  # samples, 8 s: 64 MB of activations a layer of NSynth's encoder


class Embedding(NamedTuple):
    """A sound as numbers, and what is known of it.

    `model` is the fingerprint of the encoder's model ("" if unknown), `samples` the sound's true length,
    `pitch` and `velocity` MIDI numbers (None if unknown).
    """

    values: Float[Tensor, "dims frames"]
    model: str
    hop: int
    sample_rate: int
    samples: int
    source: str
    pitch: int | None = None
    velocity: int | None = None


def encode(
    model: Autoencoder, wave: Float[Tensor, " samples"], *, chunk_frames: int | None = None
) -> Float[Tensor, "dims frames"]:
    """The embedding of one sound of any length, in chunks that equal the whole up to rounding.

    Each chunk is encoded with the context its features can see (3,070 samples for NSynth) either side, on the
    sound's own grid of frames. The last frame is filled up with silence.

    Raises:
        ValueError: there are no samples.
    """
    if not wave.numel():
        raise ValueError("0 samples cannot be encoded: expected at least one")
    hop, frames, context = model.hop, -(-wave.numel() // model.hop), -(-model.context // model.hop)
    chunk_frames = chunk_frames or -(-_CHUNK // hop)
    parts = []
    for start in range(0, frames, chunk_frames):
        stop = min(start + chunk_frames, frames)
        first, last = max(start - context, 0), min(stop + context, frames)
        heard = wave[first * hop : last * hop].to(model.device)
        with torch.inference_mode():
            parts.append(model.embed(heard[None])[0, :, start - first : stop - first].clone())
    return torch.cat(parts, dim=-1)


def silence(model: Autoencoder) -> Float[Tensor, "dims 1"]:
    """One frame of silence as the model encodes it, far from any edge: what fills gaps, and what fades end in."""
    context = -(-model.context // model.hop)
    wave = torch.zeros((2 * context + 1) * model.hop)
    return encode(model, wave)[:, context : context + 1]


def of_file(model: Autoencoder, fingerprint: str, path: str | Path) -> Embedding:
    """Read and encode an audio file; pitch and velocity are read off a name such as bass_synthetic_033-036-025.wav.

    Raises:
        FileNotFoundError, ValueError: as `audio.read`.
    """
    path = Path(path)
    wave = audio.read(path)
    try:
        key: notes.Key | None = notes.parse(path.stem)
    except ValueError:
        key = None
    known = (key.pitch, key.velocity) if key else (None, None)
    return Embedding(encode(model, wave), fingerprint, model.hop, audio.SAMPLE_RATE, wave.numel(), path.name, *known)


def obtain(model: Autoencoder, fingerprint: str, path: Path, *, otherwise: str | None) -> Embedding:
    """An embedding file as it is, or a sound encoded: numbers that the model can read.

    `otherwise` is what to do about the embedding of another model; None takes it.

    Raises:
        FileNotFoundError, ValueError: as `read` and `of_file`, or it is of another model, or of other sizes.
    """
    is_embedding = path.suffix.lower() in SUFFIXES
    found = read(path) if is_embedding else of_file(model, fingerprint, path)
    if otherwise is not None and found.model not in ("", fingerprint):
        raise ValueError(f"{path} was encoded by model {found.model}, this is {fingerprint}: {otherwise}")
    if (len(found.values), found.hop) != (model.embedding_dims, model.hop):
        raise ValueError(
            f"{path} holds {len(found.values)} numbers every {found.hop} samples, the model reads "
            f"{model.embedding_dims} every {model.hop}"
        )
    return found


def write(path: str | Path, embedding: Embedding) -> None:
    """Write an .npz that `numpy.load(allow_pickle=False)` reads: `embedding` [frames, dims] float32, `meta` JSON."""
    meta = {key: value for key, value in embedding._asdict().items() if key != "values"}
    values = embedding.values.detach().cpu().float().numpy().T
    with files.whole(path) as partial, open(partial, "wb") as file:
        np.savez(file, embedding=np.ascontiguousarray(values), meta=np.array(json.dumps(meta)))


def read(path: str | Path) -> Embedding:
    """Read an embedding file, or one of Magenta's: an .npy of [frames, 16] or [1, frames, 16].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no embedding, or values that are not finite; the message says what was found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'not there'}: expected an embedding file")
    try:
        values, meta = _stored(path)
        known: dict[str, Any] = {key: meta[key] for key in Embedding._fields if key in meta}
        known |= {key: int(known[key]) for key in ("hop", "sample_rate", "samples") if key in known}
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as an embedding ({error}): expected an .npz made by python -m wavenet_ae.encode, "
            "or an .npy of [frames, 16]"
        ) from None
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    _check_values(path, values)
    defaults: dict[str, Any] = {"model": "", "hop": 512, "sample_rate": audio.SAMPLE_RATE, "source": path.name}
    defaults["samples"] = len(values) * known.get("hop", 512)
    embedding = Embedding(torch.from_numpy(np.array(values.T, dtype=np.float32)), **(defaults | known))
    if not 0 < embedding.samples <= len(values) * embedding.hop:
        raise ValueError(
            f"{path} says it holds {embedding.samples} samples in {len(values)} frames of {embedding.hop}: "
            "expected as many as the frames give, or fewer; encode the sound again"
        )
    return embedding


def _stored(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The numbers of a file, and what it says of them."""
    with open(path, "rb") as file:
        stored = np.load(file, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return stored, {}
        return stored["embedding"], json.loads(str(stored["meta"]))


def _check_values(path: Path, values: np.ndarray) -> None:
    is_float = values.dtype.kind == "f"
    if values.ndim != 2 or not values.size or not is_float or not np.isfinite(values).all():
        found = f"{values.dtype} values of shape {list(values.shape)}"
        if is_float and not np.isfinite(values).all():
            found += ", some of them not finite"
        raise ValueError(f"{path} holds {found}: expected finite floats [frames, dims]")
