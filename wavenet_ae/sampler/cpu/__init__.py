"""The cached loop compiled by numba: panels of weights in registers, past taps batched in time, threads."""

import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler import check_shapes
from wavenet_ae.sampler.cpu import meeting
from wavenet_ae.sampler.cpu.kernel import Frame, State, run
from wavenet_ae.sampler.cpu.meeting import ABANDONED, SPINS, Share
from wavenet_ae.sampler.weights import PANEL, Packed, aligned, fold, pack

PRECISIONS = ("fp32", "bf16", "int8")
AHEAD = 8  # samples whose past taps are computed together
PRODUCTS_A_THREAD = 2_000_000  # multiply-adds a sample that are worth a thread of their own
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of all cores together, of how many, in a container
ABSENT = 0.25  # of one thread's time without a core is too much
RETRY = 4  # frames with fewer threads before all are tried again; each time in vain doubles it


def unavailable(decoder: Decoder, precision: str) -> str | None:
    """Why this engine cannot run the decoder, or None if it can."""
    return None if precision in PRECISIONS else f"it stores weights in {', '.join(PRECISIONS)}, not {precision}"


class Voices:
    """Rings of past inputs beside a copy of the weights laid out for the kernel.

    A float64 decoder is computed in float64, any other in float32; `bf16` and `int8` are how the
    large matrices are stored, the arithmetic being float32.
    """

    def __init__(self, decoder: Decoder, batch: int, *, precision: str = "fp32", threads: int | None = None):
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}: expected at least 1")
        double = decoder.start.weight.dtype == torch.float64 and precision == "fp32"
        self.decoder, self.clock = decoder, 0
        self.weights = pack(fold(decoder), np.dtype(np.float64 if double else np.float32), precision)
        self.state = _begin(self.weights, batch)
        self.threads = threads or _worthwhile(self.weights, batch)
        self.spins = SPINS if self.threads <= cores() else 0
        self.crew = None if threads else Crew(self.threads)  # who says how many threads gets them

    def generate(
        self,
        embedding: Float[Tensor, "batch dims frames"],
        uniform: Float[Tensor, "batch samples"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Int[Tensor, "batch samples"]:
        """The reference's codes; a frame at a time, so that an interrupt is heard."""
        check_shapes(self.decoder, len(self.state.level), embedding, uniform)
        dice, real = uniform.detach().cpu().double().numpy(), (float(temperature), float(top_p))
        code = np.empty(dice.shape, np.int64)
        for frame, told in enumerate(self._told(embedding)):
            now = slice(frame * self.decoder.hop, (frame + 1) * self.decoder.hop)
            drawn = np.empty((len(code), self.decoder.hop), np.int64)
            uniform_now = np.ascontiguousarray(dice[:, now])
            self._run(Frame(told, uniform_now, False, drawn, self._no_logits(), *real, self.clock))
            code[:, now] = drawn
        return torch.from_numpy(code).to(embedding.device)

    def score(
        self, embedding: Float[Tensor, "batch dims frames"], code: Int[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Log-probabilities, each step hearing the code it is given."""
        check_shapes(self.decoder, len(self.state.level), embedding, code)
        forced = code.detach().cpu().long().numpy()
        scores = []
        for frame, told in enumerate(self._told(embedding)):
            now = np.ascontiguousarray(forced[:, frame * self.decoder.hop : (frame + 1) * self.decoder.hop])
            logits = np.empty((now.shape[1], len(now), CODES), self.state.level.dtype)
            self._run(Frame(told, np.empty((0, 0)), True, now, logits, 1.0, 1.0, self.clock))
            scores.append(torch.from_numpy(logits).permute(1, 2, 0))
        return F.log_softmax(torch.cat(scores, dim=-1), dim=1).to(embedding.device)

    def restart(self, voice: int) -> None:
        """Zeros in the rings, and in what was computed from them ahead of time."""
        state, voices = self.state, len(self.state.level)
        state.ring.reshape(-1, voices, state.gated.size // voices)[:, voice] = 0
        state.ahead[:, :, voice] = 0
        state.level[voice] = 0
        state.age[voice] = 0

    def _told(self, embedding: Tensor) -> np.ndarray:
        """[frame, voice, dims], in the kernel's numbers."""
        numbers = embedding.detach().cpu().double()  # numpy has no bfloat16
        return np.ascontiguousarray(numbers.permute(2, 0, 1), self.state.level.dtype)

    def _no_logits(self) -> np.ndarray:
        return np.empty((0, 0, 0), self.state.level.dtype)

    def _run(self, frame: Frame) -> None:
        """One frame on all threads."""
        if self.state.meetings[ABANDONED]:
            raise RuntimeError("these voices were broken off inside a frame and cannot go on: open new ones")
        self.state.meetings[:] = 0
        began, busy = time.perf_counter(), time.process_time()

        def share(mine: Share) -> None:
            run(self.weights, self.state, frame, mine)
            if mine.thread == 0:  # as soon as it is true: an interrupt may come next
                self.clock += self.decoder.hop

        meeting.together(share, self.crew.size if self.crew else self.threads, self.spins, self.state.meetings)
        if self.crew:
            self.crew.learn(time.perf_counter() - began, time.process_time() - busy)


class Crew:
    """How many threads the next frame gets: all, or as many as had a core to themselves of late.

    Threads that meet sixty times a sample are as slow as the one whose core a neighbour has taken: two threads
    beside a busy program made 600 samples a second where one makes 8,000. What was generated is the same.
    """

    def __init__(self, most: int):
        self.most = self.size = most
        self.patience, self.smaller = RETRY, 0

    def learn(self, wall: float, busy: float) -> None:
        """Of the last frame: seconds it took, and seconds of processor time of all threads together."""
        if self.size > 1 and busy < (self.size - ABSENT) * wall:
            self.size, self.smaller, self.patience = max(1, int(busy / wall)), 0, min(2 * self.patience, 32 * RETRY)
        elif self.size < self.most:
            self.smaller += 1
            if self.smaller >= self.patience:  # the neighbour may have gone
                self.size = self.most
        else:
            self.patience = RETRY


def cores() -> int:
    """How many cores this process may use: those it may run on, or its container's share of their time if less."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = map(int, QUOTA.read_text().split())
    except (OSError, ValueError):  # no such file, or "max"
        return there
    return max(1, min(there, share // period))


def _worthwhile(weights: Packed, voices: int) -> int:
    """As many threads as have enough to do between two barriers, and a panel of gates each."""
    products = sum(w.size for w in (weights.past, weights.current, weights.residual, weights.skip))
    return max(1, min(cores(), products * voices // PRODUCTS_A_THREAD, weights.condition.shape[-1] // PANEL))


def _begin(weights: Packed, voices: int) -> State:
    real = weights.start.dtype
    taps, width = weights.start.shape
    layers, rows = weights.condition_bias.shape
    skip = len(weights.said_bias)
    slots = np.maximum(1, (taps - 1) * weights.dilation)
    batched = np.minimum(AHEAD, weights.dilation)
    slots[0] = 0
    ring_at = np.cumsum(np.append(0, slots))[:-1] * voices * width
    slots[0] = 1

    def zeros(*shape: int) -> np.ndarray:
        return aligned(np.zeros(shape), real)

    return State(
        ring=zeros(int(slots[1:].sum()) * voices * width),
        ring_at=ring_at,
        slots=slots,
        batched=batched,
        ahead=zeros(layers, int(batched.max()), voices, rows),
        level=zeros(voices, 2 * taps - 1),
        age=np.zeros(voices, np.int64),
        condition=zeros(layers, voices, rows),
        out_condition=zeros(voices, skip),
        gated=zeros(voices * width),
        said=zeros(voices * skip),
        hidden=zeros(voices * skip),
        logits=zeros(voices * CODES),
        meetings=meeting.begin(),
    )
