"""From an embedding to codes, one sample at a time.

Every engine is a class `Voices` in a file of its own: some sounds side by side, continued from where
they stand by

    voices.generate(embedding, uniform, temperature, top_p) -> code
    voices.score(embedding, code) -> log-probabilities, the codes being forced

Randomness is an input, so any two engines can be compared sample by sample. `reference` defines them all.
"""

import importlib
import logging
import math
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler import dice

ENGINES = ("reference", "cached", "cpu", "batched", "cuda", "clusters")
PRECISIONS = ("fp32", "bf16", "int8", "fp16")
log = logging.getLogger(__name__)
FASTEST = {  # by device: up to so many voices, the engine to try first; measured, see benchmarks/README.md
    "cpu": ((math.inf, "cpu"), (math.inf, "cached")),
    "cuda": (  # eight voices at a time of the first are faster than 31 of the second
        (31, "cuda"),
        (math.inf, "batched"),
        (math.inf, "cuda"),
        (math.inf, "cpu"),
        (math.inf, "cached"),
    ),
    "mps": ((math.inf, "cpu"), (math.inf, "cached")),
}
CARRIES = {"cuda": 8}  # voices side by side, of an engine that has a limit


class DoesNotFit(ValueError):
    """An engine can run here, but not with so many voices of so large a decoder."""


class Choice(NamedTuple):
    """An engine, how it stores weights, and how many voices of it there are side by side."""

    engine: str
    precision: str
    voices: int


@runtime_checkable
class Voices(Protocol):
    """Some sounds side by side, each remembering its past; what every engine offers."""

    def generate(
        self,
        embedding: Float[Tensor, "batch dims frames"],
        uniform: Float[Tensor, "batch samples"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Int[Tensor, "batch samples"]:
        """The next `frames * hop` codes of every voice."""
        ...

    def score(
        self, embedding: Float[Tensor, "batch dims frames"], code: Int[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Log-probabilities of the next codes, given that they turn out to be `code`."""
        ...

    def restart(self, voice: int) -> None:
        """Begin a new sound in one voice; the others go on."""
        ...


def open_voices(
    decoder: Decoder, batch: int, *, engine: str = "auto", precision: str = "auto", threads: int | None = None
) -> Voices:
    """Voices of the engine asked for; `auto` is the fastest for so many voices that can run where the decoder is.

    `fp32` means the decoder's own number format, `bf16`, `fp16` and `int8` how an engine stores its weights; `auto` is
    `fp16` for a float32 decoder on CUDA, by an engine that has it, and else `fp32`. `threads` is for the engines that
    share work between cores (None: all of them).

    Raises:
        ValueError: there is no such engine or precision, or it cannot run here; the message says why. Or no voices.
    """
    reasons: dict[str, str] = {}
    for name, stored in _possible(decoder, batch, engine, precision, reasons):
        most = CARRIES.get(name, batch)
        if most < batch:
            reasons.setdefault(name, f"it has at most {most} voices, and {batch} were asked for")
            continue
        try:
            return _module(name).Voices(decoder, batch, precision=stored, threads=threads)
        except (DoesNotFit, RuntimeError) as error:
            if engine != "auto":
                raise
            reasons.setdefault(name, str(error))
            log.warning("engine %r, the fastest, is left out here: %s", name, error)
    raise ValueError(_none(engine, reasons))


def choose(decoder: Decoder, voices: int, *, engine: str = "auto", precision: str = "auto") -> Choice:
    """What a job of so many voices is best done by, which may be fewer of them at a time.

    An engine with a limit is tried on a frame: it may have no room, or not be the only one on its GPU.

    Raises:
        ValueError: as `open_voices`.
    """
    reasons: dict[str, str] = {}
    for name, stored in _possible(decoder, voices, engine, precision, reasons):
        at_once = min(voices, CARRIES.get(name, voices))
        try:
            if name in CARRIES:
                embedding = decoder.start.weight.new_zeros(at_once, decoder.embedding_dims, 1)
                opened = _module(name).Voices(decoder, at_once, precision=stored, threads=None)
                opened.generate(embedding, torch.zeros(at_once, decoder.hop, dtype=torch.float64))
        except (DoesNotFit, RuntimeError) as error:
            reasons.setdefault(name, str(error))
            log.warning("engine %r is left out here: %s", name, error)
            continue
        return Choice(name, stored, at_once)
    raise ValueError(_none(engine, reasons))


def generate(
    decoder: Decoder,
    embedding: Float[Tensor, "batch dims frames"],
    *,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "auto",
    temperature: float = 1.0,
    top_p: float = 1.0,
    threads: int | None = None,
) -> Int[Tensor, "batch samples"]:
    """Codes for embeddings, samples = frames * hop; the same for the same seed, up to what an engine rounds otherwise.

    The dice of row b are those of note number b; see `dice.throw`.

    Raises:
        ValueError: as `open_voices`, or temperature, top_p or seed mean nothing, or the embedding has no frames or
            numbers that are not finite.
    """
    settings = {"engine": engine, "precision": precision, "threads": threads}
    frames = stream(decoder, embedding, seed=seed, temperature=temperature, top_p=top_p, **settings)  # type: ignore[arg-type]
    return torch.cat(list(frames), dim=-1)


def stream(
    decoder: Decoder,
    embedding: Float[Tensor, "batch dims frames"],
    *,
    seed: int = 0,
    engine: str = "auto",
    precision: str = "auto",
    temperature: float = 1.0,
    top_p: float = 1.0,
    threads: int | None = None,
) -> Iterator[Int[Tensor, "batch hop"]]:
    """What `generate` returns, one frame of codes at a time, each as soon as it is done."""
    dice.check(temperature, top_p)
    _check_embedding(embedding)
    batch, hop = len(embedding), decoder.hop
    voices = open_voices(decoder, batch, engine=engine, precision=precision, threads=threads)
    for frame in range(embedding.shape[-1]):
        uniform = torch.stack([dice.throw(seed, note, frame * hop, hop) for note in range(batch)])
        yield voices.generate(embedding[:, :, frame : frame + 1], uniform, temperature, top_p)


def score(
    decoder: Decoder,
    code: Int[Tensor, "batch samples"],
    embedding: Float[Tensor, "batch dims frames"],
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Float[Tensor, "batch 256 samples"]:
    """The engine's own log-probabilities (nats) of every sample's codes, the codes before it being forced.

    Raises:
        ValueError: as `generate`, or the codes are not codes, or not as many as the frames.
    """
    _check_embedding(embedding)
    if bool(((code < 0) | (code >= CODES)).any()):
        raise ValueError(f"codes run from {int(code.min())} to {int(code.max())}: expected 0 to {CODES - 1}")
    voices = open_voices(decoder, len(code), engine=engine, precision=precision, threads=threads)
    return voices.score(embedding, code)


def unavailable(engine: str, decoder: Decoder, precision: str = "fp32") -> str | None:
    """Why one of `ENGINES` cannot run the decoder here, or None if it can."""
    try:
        return _module(engine).unavailable(decoder, precision)
    except ModuleNotFoundError as error:
        return f"it needs the package {error.name}, which is not installed"


def check_shapes(decoder: Decoder, voices: int, embedding: Tensor, samples: Tensor) -> None:
    """Refuse an embedding, or uniforms or codes for its samples, that do not fit the voices.

    Raises:
        ValueError: another number of voices, of numbers a frame, or of samples than frames times the hop.
    """
    if embedding.ndim != 3 or embedding.shape[:2] != (voices, decoder.embedding_dims):
        raise ValueError(
            f"an embedding of shape {list(embedding.shape)} does not fit {voices} voices of a decoder that reads "
            f"{decoder.embedding_dims} numbers a frame: expected [{voices}, {decoder.embedding_dims}, frames]"
        )
    frames = embedding.shape[-1]
    if samples.shape != (voices, frames * decoder.hop):
        raise ValueError(
            f"{samples.shape[-1]} samples of {len(samples)} voices do not match {frames} embedding frames of hop "
            f"{decoder.hop}: expected {frames * decoder.hop} samples of {voices}"
        )


def _check_embedding(embedding: Tensor) -> None:
    if embedding.ndim != 3 or not embedding.shape[-1] or not bool(embedding.isfinite().all()):
        raise ValueError(
            f"an embedding of shape {list(embedding.shape)}, {int((~embedding.isfinite()).sum())} of its numbers not "
            "finite: expected [batch, dims, frames] of at least one frame, all finite"
        )


def _possible(
    decoder: Decoder, voices: int, engine: str, precision: str, reasons: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """Engines and precisions that can run here, in their order; why others cannot is noted in `reasons`."""
    for name, stored in _candidates(decoder, voices, engine, precision):
        reason = unavailable(name, decoder, stored)
        if reason is None:
            yield name, stored
        else:
            reasons.setdefault(name, reason)


def _candidates(decoder: Decoder, voices: int, engine: str, precision: str) -> list[tuple[str, str]]:
    """Engines and precisions in the order in which they are to be tried."""
    if voices < 1:
        raise ValueError(f"{voices} voices were asked for: expected at least one")
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"unknown precision {precision!r}: choose one of auto, {', '.join(PRECISIONS)}")
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"unknown engine {engine!r}: choose one of auto, {', '.join(ENGINES)}")
    weight = decoder.start.weight
    halved = ["fp16"] if weight.device.type == "cuda" and weight.dtype == torch.float32 else []
    table = FASTEST.get(weight.device.type, FASTEST["cpu"])
    engines = [name for most, name in table if voices <= most] if engine == "auto" else [engine]
    return [(name, each) for each in ([*halved, "fp32"] if precision == "auto" else [precision]) for name in engines]


def _none(engine: str, reasons: dict[str, str]) -> str:
    if engine != "auto":
        return f"engine {engine!r} cannot run here: {reasons[engine]}"
    return "no engine can run here: " + "; ".join(f"{name}: {why}" for name, why in reasons.items())


def _module(engine: str) -> ModuleType:
    return importlib.import_module(f"wavenet_ae.sampler.{engine}")
