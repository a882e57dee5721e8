"""The order of crops: step s is a pure function of (notes, batch, crop, seed, s), whoever computes it."""

import itertools
import logging
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from wavenet_ae import audio
from wavenet_ae.notes.corpus import Note

CROPS = ("uniform", "energy")
log = logging.getLogger(__name__)
GRACE = 2.0  # seconds a worker goes on after SIGTERM
_ORDER, _CROP = 0, 1  # what a die is thrown for


class Batch(NamedTuple):
    """One crop of each of `batch` notes."""

    wave: Float[Tensor, "batch samples"]
    pitch: Int[Tensor, " batch"]
    names: list[str]

    def pinned(self) -> "Batch":
        """The same in memory that the system leaves where it is."""
        return self._replace(wave=self.wave.pin_memory(), pitch=self.pitch.pin_memory())

    def parts(self, count: int) -> "list[Batch]":
        """The batch as `count` smaller ones of one size."""
        own = len(self.names) // count
        starts = range(0, own * count, own)
        return [Batch(self.wave[i : i + own], self.pitch[i : i + own], self.names[i : i + own]) for i in starts]


def batches(  # noqa: PLR0913
    notes: Sequence[Note],
    *,
    batch: int,
    crop: int,
    seed: int,
    first_step: int = 0,
    steps: int | None = None,
    workers: int = 0,
    crop_by: str = "uniform",
    attacks: float = 0.0,
    share: tuple[int, int] | None = None,
    max_unreadable: int = 0,
    pinned: bool = False,
) -> Iterator[Batch]:
    """Batches of crops of `crop` samples, from `first_step` on, `steps` of them or without end.

    The notes pass in a new order each epoch; an epoch may end inside a batch. Starting at step s gives what an
    uninterrupted pass gives from step s on, whatever the number of workers. `crop_by="energy"` starts where
    a note sounds, in proportion to the energy of the crop, and has to read the whole note for it. A share `attacks`
    of the crops begins with the note instead. A note shorter than the crop is followed by silence. Of each batch
    `share` takes the crops from a first one to before another: what several processes take together is what one would.

    A note that cannot be read is named and another takes its place, until there are more than `max_unreadable`.
    `pinned` batches lie where a GPU reads them without waiting for the processor.

    Raises:
        ValueError: no notes, an impossible size, or more files than that cannot be read or have another rate.
    """
    if not notes or batch < 1 or crop < 1 or first_step < 0 or workers < 0:
        raise ValueError(
            f"no batches of {batch} crops of {crop} samples of {len(notes)} notes from step {first_step} with "
            f"{workers} workers: expected at least one note, crop and sample, and no number below zero"
        )
    if crop_by not in CROPS:
        raise ValueError(f"unknown crop_by {crop_by!r}: choose one of {', '.join(CROPS)}")
    if not 0 <= attacks <= 1:
        raise ValueError(f"attacks is {attacks}: expected a share, from 0 to 1")
    own = range(*(share or (0, batch)))
    dataset = _Steps(list(notes), batch, crop, seed, (crop_by, attacks), own, max_unreadable)
    numbers = itertools.count(first_step) if steps is None else range(first_step, first_step + steps)
    ordered = _in_order(dataset, numbers, workers, max_unreadable)
    return map(Batch.pinned, ordered) if pinned else ordered


class _Steps(Dataset):
    """Batches by their step, beside why notes were left out. A worker process cannot raise an error plainly."""

    def __init__(
        self,
        notes: list[Note],
        batch: int,
        crop: int,
        seed: int,
        begin: tuple[str, float],
        share: range,
        max_unreadable: int,
    ):
        self.notes, self.batch, self.crop, self.seed, (self.crop_by, self.attacks) = notes, batch, crop, seed, begin
        self.share, self.max_unreadable = share, max_unreadable
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)
        self._shared: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For another process. Speed: the notes lie in shared memory, not in what is sent.

        A process that is started reads what it is sent only after it has imported everything; what its pipe cannot
        hold is waited for, by one process after another.
        """
        if self._shared is None:  # and kept, for it is gone with the last who holds it here
            packed = np.frombuffer(pickle.dumps(self.notes), dtype=np.uint8)
            self._shared = torch.from_numpy(packed.copy()).share_memory_()
        return self.__dict__ | {"notes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"notes": pickle.loads(state["_shared"].numpy().tobytes()), "_shared": None})

    def __getitem__(self, step: int) -> tuple[Batch | None, dict[str, Exception]]:
        faults: dict[str, Exception] = {}
        crops = [self._readable(step * self.batch + place, faults) for place in self.share]
        if not all(crops):
            return None, faults
        waves, chosen = zip(*crops, strict=True)
        pitch = torch.tensor([note.pitch for note in chosen])
        return Batch(torch.stack(waves), pitch, [note.name for note in chosen]), faults

    def _readable(self, position: int, faults: dict[str, Exception]) -> tuple[Tensor, Note] | None:
        """The crop at a position, of the next note where its own cannot be read; none if that goes on and on."""
        for other in range(position, position + len(self.notes)):
            if len(faults) > self.max_unreadable:
                break
            note = self._note(other)
            try:
                return self._crop(note, position), note
            except (ValueError, OSError) as error:
                faults[note.name] = error
        return None

    def _note(self, position: int) -> Note:
        epoch, place = divmod(position, len(self.notes))
        if epoch != self._epoch:
            self._permutation = _dice(self.seed, epoch, _ORDER, len(self.notes)).argsort(kind="stable")
            self._epoch = epoch
        return self.notes[self._permutation[place]]

    def _crop(self, note: Note, position: int) -> Float[Tensor, " samples"]:
        info = audio.inspect(note.path)
        if info.rate != audio.SAMPLE_RATE or info.channels != 1:
            raise ValueError(
                f"{note.path} has {info.channels} channels at {info.rate} Hz: expected one at {audio.SAMPLE_RATE} Hz; "
                "make another corpus of it with python -m wavenet_ae.prepare source=folder "
                f"source.input={note.path.parent} out=..."
            )
        die, other = (int(die) for die in _dice(self.seed, position, _CROP, 2))
        room = max(info.samples - self.crop, 0)
        if other < self.attacks * 2**64:
            room = 0
        if self.crop_by == "energy" and room:
            wave = audio.read(note.path)
            start = _loud_start(wave.numpy(), self.crop, die)
            return wave[start : start + self.crop]
        start = die * (room + 1) >> 64
        wave = audio.read(note.path, start, start + self.crop)
        return F.pad(wave, (0, self.crop - len(wave)))


def _in_order(
    dataset: _Steps, numbers: "range | itertools.count[int]", workers: int, max_unreadable: int
) -> Iterator[Batch]:
    loader = (dataset[step] for step in numbers) if workers == 0 else _loader(dataset, numbers, workers)
    left_out: set[str] = set()
    batch = None
    try:
        for batch, faults in loader:
            for name in sorted(faults.keys() - left_out):
                left_out.add(name)
                if len(left_out) > max_unreadable or batch is None:
                    raise faults[name]
                log.warning("%s is left out, another note takes its place: %s", name, faults[name])
            assert batch is not None
            yield batch
    finally:  # whoever keeps the traceback keeps this frame: it must not keep the workers alive
        del loader, batch


def _loader(dataset: _Steps, numbers: "range | itertools.count[int]", workers: int) -> DataLoader:
    return DataLoader(
        dataset,
        sampler=numbers,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        generator=torch.Generator(),  # else the loader draws from torch's own, which a run's state holds
        multiprocessing_context="spawn",  # a fork after numba's threads or FluidSynth hangs
        persistent_workers=True,
        worker_init_fn=_leave_signals_to_the_parent,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C, and a scheduler's SIGTERM, reach every process of a group: only the parent decides what they mean.

    SIGTERM is also how a parent that ends gets rid of its workers, so it is obeyed, but late.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def obey(*_: object) -> None:
        later = threading.Timer(GRACE, os._exit, [0])
        later.daemon = True
        later.start()

    signal.signal(signal.SIGTERM, obey)


def _dice(seed: int, index: int, purpose: int, count: int) -> np.ndarray:
    """`count` uniform 64-bit integers: Philox keyed (seed, index), a stream for each purpose."""
    key = np.array([seed % 2**64, index], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, purpose], dtype=np.uint64)).random_raw(count)


def _loud_start(wave: np.ndarray, crop: int, die: int) -> int:
    """A start drawn in proportion to the energy of its crop; uniform where there is only silence."""
    total = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    energy = np.maximum(total[crop:] - total[:-crop], 0)
    mass = np.cumsum(energy if energy.max() > 0 else np.ones_like(energy))
    return min(int(np.searchsorted(mass, mass[-1] * (die / 2**64), side="right")), len(energy) - 1)
