"""Many voices side by side: two fused products a layer, past taps batched in time, steps recorded as CUDA graphs.

A step costs two products a layer, whatever the voices: [B, width] x [width, 2 width] with the gate behind it,
and [B, width] x [width, width + skip], residual and skip together. A chunk of up to 8 samples begins with
the past taps of every layer that looks further back than that, in one product of 8 B rows, and is one CUDA
graph. All that changes between chunks, ring positions included, is read from the device's memory.

On a GPU the products are Triton kernels whose sums run in the same order for any number of voices, so that
a voice's codes do not depend on its neighbours. Without Triton, and in float64, they are torch's: there a
library may sum in another order for another number of voices, in the last bits.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from types import ModuleType

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae import mulaw
from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.sampler import check_shapes
from wavenet_ae.sampler.batched import layout, plain

STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Compute = Callable[[], None]


def unavailable(decoder: Decoder, precision: str) -> str | None:
    """Why this engine cannot run the decoder, or None if it can."""
    if precision not in STORED:
        return f"it stores weights in {', '.join(STORED)}, not {precision}"
    device = decoder.start.weight.device.type
    return None if device in ("cuda", "cpu") else f"it runs on CUDA and on the CPU, not on {device}"


class Voices:
    """Rings of past inputs beside a copy of the weights, both where the decoder is.

    A float64 decoder is computed in float64, any other in float32 and never in TF32. With `bf16` and `fp16`
    the large matrices and the inputs they are multiplied by are stored in 16 bits; sums, gates, the
    residual and the output layers stay in float32. Voices that were interrupted inside a frame cannot go on.
    """

    def __init__(self, decoder: Decoder, batch: int, *, precision: str = "fp32", threads: int | None = None):
        double = decoder.start.weight.dtype == torch.float64 and precision == "fp32"
        real = torch.float64 if double else torch.float32
        stored = real if precision == "fp32" else STORED[precision]
        self.decoder, self.device = decoder, decoder.start.weight.device
        self.plan = layout.plan(decoder)
        self.weights = layout.load(decoder, self.plan, stored, real)
        self.state = layout.begin(self.plan, self.weights, batch)
        self.steps = kernels() if self.device.type == "cuda" and not double else plain
        self.record: Callable[[Compute], Compute] | None = _graph if self.device.type == "cuda" else None
        self.recorded: dict[object, Compute | None] = {}
        self.intact = True

    @torch.inference_mode()
    def generate(
        self,
        embedding: Float[Tensor, "batch dims frames"],
        uniform: Float[Tensor, "batch samples"],
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Int[Tensor, "batch samples"]:
        """The reference's codes; a chunk at a time, so that an interrupt is heard."""
        check_shapes(self.decoder, self.state.code.shape[1], embedding, uniform)
        die = uniform.to(self.device, torch.float64).T.contiguous()  # all dice at once
        code = torch.empty(uniform.shape, dtype=torch.long, device=self.device)

        def choose(step: int, level: Tensor) -> None:
            at = self.state
            self.steps.draw(at.logits[step], at.uniform[step], temperature, top_p, at.code[step], level)

        for now in self._chunks(embedding):
            self.state.uniform.copy_(die[now])
            self._run(("draw", temperature, top_p), choose)
            code[:, now] = self.state.code.T
        return code.to(embedding.device)

    @torch.inference_mode()
    def score(
        self, embedding: Float[Tensor, "batch dims frames"], code: Int[Tensor, "batch samples"]
    ) -> Float[Tensor, "batch 256 samples"]:
        """Log-probabilities, each step hearing the code it is given."""
        check_shapes(self.decoder, self.state.code.shape[1], embedding, code)
        forced = code.to(self.device).T.contiguous()
        scores = torch.empty(len(code), mulaw.CODES, code.shape[-1], dtype=self.state.logits.dtype, device=self.device)

        def choose(step: int, level: Tensor) -> None:
            level.copy_(mulaw.level(self.state.code[step], level.dtype))

        for now in self._chunks(embedding):
            self.state.code.copy_(forced[now])
            self._run("force", choose)
            scores[:, :, now] = F.log_softmax(self.state.logits, dim=-1).permute(1, 2, 0)
        return scores.to(embedding.device)

    @torch.inference_mode()
    def restart(self, voice: int) -> None:
        """Zeros in the rings are the zero padding the decoder begins with."""
        past = 2 * self.plan.taps - 2
        self.state.ring[:, voice] = 0
        self.state.inputs[:, :, voice] = 0
        self.state.heard[:past, :, voice] = 0
        self.state.heard[past, 0, voice] = 0

    def _chunks(self, embedding: Tensor) -> Iterator[slice]:
        """Slices of the samples to come, the voices having been told their frame."""
        steps, hop = self.plan.steps, self.decoder.hop
        for frame in range(embedding.shape[-1]):
            if not self.intact:  # where they stand in the frame, no caller knows
                raise RuntimeError("these voices were broken off inside a frame and cannot go on: open new ones")
            self._tell(embedding[:, :, frame].to(self.device, self.weights.opening.dtype))
            self.intact = False
            for start in range(frame * hop, (frame + 1) * hop, steps):
                yield slice(start, start + steps)
            self.intact = True

    def _tell(self, embedding: Float[Tensor, "batch dims"]) -> None:
        """A frame's conditions; the sum over numbers runs in order, whatever the number of voices."""
        for place, weight, bias in (
            (self.state.told, self.weights.condition, self.weights.condition_bias),
            (self.state.told_out[None], self.weights.out_condition[None], self.weights.out_bias[None]),
        ):
            place.copy_(bias[:, None])
            for number in range(embedding.shape[1]):
                place.addcmul_(weight[:, None, number], embedding[None, :, number, None])

    def _run(self, kind: object, choose: Callable[[int, Tensor], None]) -> None:
        """A chunk: as it is the first time, which warms the libraries up; then recorded; then replayed."""

        def chunk() -> None:
            self._chunk(choose)

        with torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext():
            if self.record is None or kind not in self.recorded:
                chunk()
                self.recorded[kind] = None
                return
            replay = self.recorded[kind] or self.record(chunk)
            self.recorded[kind] = replay
            replay()

    def _chunk(self, choose: Callable[[int, Tensor], None]) -> None:
        """`plan.steps` samples of every voice; `choose(step, level)` decides a code and says its level."""
        plan, weights, state = self.plan, self.weights, self.state
        lags, near = 2 * plan.taps - 1, plan.near
        base, length = state.base[:, None], state.length[:, None]
        if len(base):
            slots = base[..., None] + (state.clock + state.reading) % length[..., None]
            self.steps.recall(state.ring, slots, weights.past[near:], state.told[1 + near :], state.ahead)
        for step in range(plan.steps):
            self._step(step, state.heard[step : step + lags])
            choose(step, state.heard[step + lags, 0])
        if len(base):
            state.ring[base + (state.clock + state.writing) % length] = state.inputs[near:, plan.reach :]
        state.inputs[:near, : plan.reach] = state.inputs[:near, plan.steps :].clone()
        state.heard[:lags] = state.heard[plan.steps :].clone()
        state.clock.add_(plan.steps)

    def _step(self, step: int, heard: Tensor) -> None:
        """The logits of one sample of every voice."""
        plan, weights, state = self.plan, self.weights, self.state
        now, width = plan.reach + step, weights.now.shape[1]
        self.steps.opening(heard, weights.opening, weights.opening_bias, state.told[0], state.gated, state.spread)
        for layer, dilation in enumerate(plan.dilation):
            if layer:
                at = plan.place[layer]
                is_near = at < plan.near
                past = weights.past[at] if is_near else weights.past[at, :0]
                told = state.told[1 + at] if is_near else state.ahead[at - plan.near, step]
                self.steps.gate(state.inputs[at], now, dilation, weights.now[at], past, told, state.gated)
            is_last = layer + 1 == len(plan.dilation)
            following = None if is_last else state.inputs[plan.place[layer + 1], now]
            self.steps.spread(state.gated, weights.spread[layer], weights.spread_bias[layer], state.spread, following)
        self.steps.dense(state.spread[:, width:], weights.out, state.told_out, state.hidden)
        self.steps.dense(state.hidden, weights.logits, weights.logits_bias[None], state.logits[step])


def _graph(chunk: Compute) -> Compute:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads have other GPUs
        chunk()
    return graph.replay


def kernels() -> ModuleType:
    """The fused steps where Triton is installed, else the plain ones."""
    return importlib.import_module(f"{__name__}.fused") if importlib.util.find_spec("triton") else plain
