"""A step's gradient as a CUDA graph: recorded once, then replayed on the crops of every later step.

A step of a small model is thousands of kernels, and Python takes longer to launch them than a GPU to run them. A
recording launches them all at once. It knows tensors by their place: crops are copied to where the recorded ones
lay, and the gradients of the weights stay where they were first left, so nobody may take them away.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from wavenet_ae.notes import Batch

WARM = 3  # steps computed as they come before one is recorded: libraries choose their ways in them

Measured = Mapping[str, Tensor]


@runtime_checkable
class Recorder(Protocol):
    """What can record the work of a function on a device and do it again."""

    def warm(self, compute: Callable[[], Measured]) -> Measured:
        """Compute as it comes, where a recording will."""

    def record(self, compute: Callable[[], Measured]) -> tuple[Callable[[], None], Measured]:
        """Take down what is computed; return what does it again, and the tensors in which it leaves its results."""


class CudaRecorder:
    """Records CUDA graphs, as torch.cuda.CUDAGraph asks for: warm on a stream aside, then captured."""

    def __init__(self, device: torch.device):
        self.device = device

    def warm(self, compute: Callable[[], Measured]) -> Measured:
        """Compute on a stream aside, which waits for this one and is waited for."""
        with torch.cuda.device(self.device):
            now, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(now)
            with torch.cuda.stream(aside):
                measured = compute()
            now.wait_stream(aside)
        return measured

    def record(self, compute: Callable[[], Measured]) -> tuple[Callable[[], None], Measured]:
        """Capture; nothing is computed until the graph is replayed.

        Raises:
            RuntimeError: something in it cannot be captured, or memory is short.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph):
                measured = compute()
        except RuntimeError as error:
            raise RuntimeError(f"the step cannot be recorded as a CUDA graph ({error}): say graph=false") from error
        return graph.replay, measured


class Recording:
    """A gradient that is computed as it comes for a few steps, then recorded, then replayed.

    `compute` leaves the gradients of `weights` with them and returns what it measured; what it does may depend on
    nothing but the crops and their pitches.
    """

    def __init__(self, compute: Callable[[Batch], Measured], weights: Sequence[nn.Parameter], recorder: Recorder):
        self.compute, self.weights, self.recorder = compute, weights, recorder
        self.warmed = 0
        self.replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch) -> Measured:
        """The same as `compute` does of a batch; every batch has the size of the first."""
        if self.warmed < WARM:
            self.warmed += 1
            self._forget_gradients()
            return self.recorder.warm(lambda: self.compute(batch))
        if self.replay is None:
            wave, pitch = (each.to(self.weights[0].device, copy=True) for each in batch[:2])
            self.crops = Batch(wave, pitch, batch.names)
            self._forget_gradients()
            self.replay, self.measured = self.recorder.record(lambda: self.compute(self.crops))
        for place, new in zip(self.crops[:2], batch[:2], strict=True):
            assert place.shape == new.shape, "a recording is of crops of one size"
            place.copy_(new, non_blocking=True)
        self.replay()
        return self.measured

    def _forget_gradients(self) -> None:
        for weight in self.weights:
            weight.grad = None
