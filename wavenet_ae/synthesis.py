"""Embeddings to waves, whatever made them: sampled through a few voices, or spectrograms inverted."""

import copy
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wavenet_ae import mulaw, sampler, spectra
from wavenet_ae.models import spectral, wavenet
from wavenet_ae.models.autoencoder import Autoencoder
from wavenet_ae.sampler import dice


class Sound(NamedTuple):
    """What is to be heard: `embedding` as the decoder reads it, `samples` the length wanted.

    `name` keys the sound's dice: the same name, embedding and seed give the same sound.
    """

    name: str
    embedding: Float[Tensor, "dims frames"]
    samples: int


def sound(
    model: Autoencoder, name: str, embedding: Float[Tensor, "dims frames"], samples: int, pitch: int | None = None
) -> Sound:
    """What is to be heard of an embedding: told the pitch, where the model's decoder is.

    Raises:
        ValueError: the embedding is of another kind of model, or the model needs a pitch from 0 to 127.
    """
    if len(embedding) != model.embedding_dims:
        raise ValueError(f"{name} holds {len(embedding)} numbers a frame, the model reads {model.embedding_dims}")
    wanted = None if pitch is None else torch.tensor([pitch], device=model.device)
    with torch.inference_mode():
        return Sound(name, model.condition(embedding[None].to(model.device), wanted)[0], samples)


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn; see `sampler`. `batch` is how many sounds are generated side by side at most.

    With several `devices` sounds are split between them, so many on each; none means where the decoder is.
    `iterations` and `momentum` are those of `spectra.griffin_lim`: all that a spectral model needs beside the seed.
    """

    engine: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    batch: int = 8
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    devices: tuple[str, ...] = ()
    iterations: int = 100
    momentum: float = 0.99

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        dice.check(self.temperature, self.top_p)
        dice.throw(self.seed, 0, 0, 1)
        if self.batch < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"batch is {self.batch} and threads {self.threads}: expected at least 1 of each")
        spectra.check_griffin_lim(self.iterations, self.momentum)

    def check(self, decoder: nn.Module) -> "Sampling":
        """Refuse before long work what cannot run here; what is chosen is for all of the work.

        Raises:
            ValueError: the engine cannot run this decoder.
        """
        if not isinstance(decoder, wavenet.Decoder):
            return self
        chosen = self.settled(decoder)
        if chosen is self or chosen.engine not in sampler.CARRIES:  # which was tried to be chosen
            chosen.open(decoder, 1)
        return chosen

    def settled(self, decoder: wavenet.Decoder) -> "Sampling":
        """With the engine and the precision chosen for `batch` voices on one device, whatever there is to be made.

        So a sound does not depend on how many others there are, nor on how many devices share them. Where nothing is
        left to choose nothing is tried, so that the sounds of one piece of work after another need it once.

        Raises:
            ValueError: there is none that can run this decoder here.
        """
        if "auto" not in (self.engine, self.precision) and self.batch <= sampler.CARRIES.get(self.engine, self.batch):
            return self
        there = copy.deepcopy(decoder).to(self.devices[0]) if self.devices else decoder
        engine, precision, voices = sampler.choose(there, self.batch, engine=self.engine, precision=self.precision)
        return replace(self, engine=engine, precision=precision, batch=voices)

    def open(self, decoder: wavenet.Decoder, voices: int) -> sampler.Voices:
        """Voices of the engine asked for.

        Raises:
            ValueError: it cannot run this decoder here.
        """
        return sampler.open_voices(decoder, voices, engine=self.engine, precision=self.precision, threads=self.threads)


def render(
    decoder: nn.Module,
    sounds: Sequence[Sound],
    sampling: Sampling,
    progress: Callable[[int], object] = lambda samples: None,
) -> Iterator[tuple[int, Float[Tensor, " samples"]]]:
    """Yield (index, wave) of each sound as it is finished; `progress` is told of samples as they are made.

    `decoder` is that of any `Autoencoder`. A sound does not depend on its neighbours.

    Raises:
        ValueError: a sound has no frames or more samples than its frames give or numbers that are not finite, or the
            engine cannot run.
    """
    assert isinstance(decoder, wavenet.Decoder | spectral.Decoder), f"{type(decoder).__name__} makes no sound"
    for sound in sounds:
        if not 0 < sound.samples <= sound.embedding.shape[-1] * decoder.hop:
            raise ValueError(
                f"{sound.name}: {sound.samples} samples do not fit {sound.embedding.shape[-1]} frames of {decoder.hop}"
            )
        if not bool(sound.embedding.isfinite().all()):
            raise ValueError(f"{sound.name}: its embedding is not finite; are the model's weights damaged?")
    if not sounds:
        return
    if isinstance(decoder, spectral.Decoder):
        yield from _inverted(decoder, sounds, sampling, progress)
        return
    sampling = sampling.settled(decoder)
    waiting = sorted(range(len(sounds)), key=lambda i: sounds[i].samples)
    if sampling.devices:
        yield from _shared(decoder, sounds, waiting, sampling, progress)
    else:
        yield from _rendered(decoder, sounds, waiting, sampling, progress)


def _inverted(
    decoder: spectral.Decoder, sounds: Sequence[Sound], sampling: Sampling, progress: Callable[[int], object]
) -> Iterator[tuple[int, Float[Tensor, " samples"]]]:
    """Through Griffin-Lim from a phase of the sound's own dice, one after the other: each is a matter of a second."""
    for index, sound in enumerate(sounds):
        with torch.inference_mode():
            magnitude = decoder.magnitude(sound.embedding[None].to(decoder.out.weight.device))[0]
            uniform = dice.throw(sampling.seed, dice.note_key(sound.name), 0, magnitude.numel()).view(magnitude.shape)
            wave = spectra.griffin_lim(
                magnitude,
                (math.pi * (2 * uniform - 1)).to(magnitude),
                samples=sound.samples,
                iterations=sampling.iterations,
                momentum=sampling.momentum,
                hop=decoder.n_fft // 4,
            )
        progress(sound.samples)
        yield index, wave.clone().cpu()


def _batch(sounds: Sequence[Sound], sampling: Sampling) -> int:
    """Voices on each device. Speed: nine sounds are five and four, not eight and one."""
    devices = max(1, len(sampling.devices))
    rounds = -(-len(sounds) // (sampling.batch * devices))
    return -(-len(sounds) // (rounds * devices))


def _rendered(
    decoder: wavenet.Decoder,
    sounds: Sequence[Sound],
    waiting: list[int],
    sampling: Sampling,
    progress: Callable[[int], object],
) -> Iterator[tuple[int, Float[Tensor, " samples"]]]:
    """Take sounds from the end of `waiting`, which others may do too, until there is none."""
    device = decoder.start.weight.device
    first = [index for index in (_taken(waiting) for _ in range(_batch(sounds, sampling))) if index is not None]
    if not first:
        return
    voices = sampling.open(decoder, len(first))
    playing = [_Playing(i, sounds[i], decoder.hop) for i in first]
    while any(not each.done for each in playing):
        embedding = torch.stack([each.frame() for each in playing]).to(device)
        uniform = torch.stack([each.dice(sampling.seed) for each in playing])
        codes = voices.generate(embedding, uniform, sampling.temperature, sampling.top_p)
        progress(sum(each.wanted() for each in playing))
        for slot, each in enumerate(playing):
            if each.done or not each.hear(codes[slot]):
                continue
            yield each.index, each.wave()
            following = _taken(waiting)
            if following is not None:
                playing[slot] = _Playing(following, sounds[following], decoder.hop)
                voices.restart(slot)


def _shared(
    decoder: wavenet.Decoder,
    sounds: Sequence[Sound],
    waiting: list[int],
    sampling: Sampling,
    progress: Callable[[int], object],
) -> Iterator[tuple[int, Float[Tensor, " samples"]]]:
    """A thread and a copy of the decoder for each device; all that they make is told and handed out here."""
    said: SimpleQueue[object] = SimpleQueue()
    stopped = threading.Event()

    def told(samples: int) -> None:
        said.put(samples)
        if stopped.is_set():
            raise _Stopped

    def work(device: str) -> None:
        error: BaseException | None = None
        try:
            for made in _rendered(copy.deepcopy(decoder).to(device), sounds, waiting, sampling, told):
                said.put(made)
        except BaseException as reason:
            error = reason
        said.put(_End(error))

    threads = [threading.Thread(target=work, args=(device,)) for device in sampling.devices]
    try:
        for thread in threads:
            thread.start()
        yield from _heard(said, len(threads), progress)
    finally:  # also an interrupt, or nobody asking for the rest: a frame later no thread is left
        stopped.set()
        for thread in threads:
            thread.join()


def _heard(
    said: SimpleQueue[object], devices: int, progress: Callable[[int], object]
) -> Iterator[tuple[int, Float[Tensor, " samples"]]]:
    """Sounds as the devices say them, until each has said that it has no more; a failure is raised here."""
    while devices:
        message = said.get()
        if isinstance(message, int):
            progress(message)
        elif not isinstance(message, _End):
            yield message  # type: ignore[misc]
        elif message.error is None:
            devices -= 1
        else:
            raise message.error


class _Stopped(Exception):
    """Nobody waits for this device's sounds any more."""


class _End(NamedTuple):
    """A device has no more to do, or failed."""

    error: BaseException | None


def _taken(waiting: list[int]) -> int | None:
    """The next sound, which nobody else then takes (a list's pop is one step)."""
    try:
        return waiting.pop()
    except IndexError:
        return None


class _Playing:
    """One sound on its way through a voice."""

    def __init__(self, index: int, sound: Sound, hop: int):
        self.index, self.sound, self.hop = index, sound, hop
        self.frames = -(-sound.samples // hop)
        self.codes: list[Tensor] = []

    @property
    def done(self) -> bool:
        return len(self.codes) == self.frames

    def frame(self) -> Float[Tensor, "dims 1"]:
        at = min(len(self.codes), self.frames - 1)
        return self.sound.embedding[:, at : at + 1]

    def dice(self, seed: int) -> Float[Tensor, " hop"]:
        return dice.throw(seed, dice.note_key(self.sound.name), len(self.codes) * self.hop, self.hop)

    def wanted(self) -> int:
        """Samples of the next frame that belong to the sound."""
        return max(0, min(self.hop, self.sound.samples - len(self.codes) * self.hop))

    def hear(self, code: Tensor) -> bool:
        self.codes.append(code.clone())
        return self.done

    def wave(self) -> Float[Tensor, " samples"]:
        return mulaw.decode(torch.cat(self.codes).cpu())[: self.sound.samples]
