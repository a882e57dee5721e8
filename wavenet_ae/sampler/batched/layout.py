"""What the batched engine holds: a decoder's weights as its products read them, and what its voices remember."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler.weights import Folded, fold

AHEAD = 8  # samples at most whose past taps are computed together; a power of two, as the dilations are


class Plan(NamedTuple):
    """Which layers after the first remember where.

    A chunk is `steps` samples. A layer whose dilation is shorter (near) reads what the same chunk wrote;
    one whose is not (far) reads what was there before it, so its past taps are one product a chunk.
    """

    steps: int
    order: list[int]  # the near layers, then the far ones, as they stand in `Weights.now` and `State.inputs`
    place: dict[int, int]  # where a layer stands there
    near: int  # how many are near
    dilation: list[int]  # by layer
    reach: int  # samples before the chunk that the near layers read
    taps: int


class Weights(NamedTuple):
    """Matrices as [inputs, outputs], in the stored format or, where small, in real numbers; layers by `Plan.order`."""

    opening: Float[Tensor, "heard opened"]  # (level, whether there is one) of the samples heard, the oldest first ->
    opening_bias: Float[Tensor, " spread"]  # the first layer's gates, the residual's beginning, what the start says
    condition: Float[Tensor, "layers dims gates"]  # the first layer's, then by order
    condition_bias: Float[Tensor, "layers gates"]
    now: Float[Tensor, "ordered width gates"]
    past: Float[Tensor, "ordered past width gates"]  # the newest tap first
    spread: Float[Tensor, "layers width spread"]  # residual and skip side by side; the last residual is zero
    spread_bias: Float[Tensor, "layers spread"]
    out: Float[Tensor, "skip skip"]
    out_condition: Float[Tensor, "dims skip"]
    out_bias: Float[Tensor, " skip"]
    logits: Float[Tensor, "skip codes"]
    logits_bias: Float[Tensor, " codes"]


class State(NamedTuple):
    """What the voices remember, and the places that a chunk's results go to: a graph knows them by address."""

    clock: Int[Tensor, ""]  # samples made so far
    heard: Float[Tensor, "time 2 batch"]  # levels and whether there is one; the last of the past stands at `hist`
    inputs: Float[Tensor, "ordered time batch width"]  # of the layers after the first, from `reach` before the chunk
    ring: Float[Tensor, "slots batch width"]  # the far layers' inputs, one ring after another
    reading: Int[Tensor, "far steps past"]  # a ring's slot is `base` and (clock + this) modulo `length`
    writing: Int[Tensor, "far steps"]
    base: Int[Tensor, " far"]
    length: Int[Tensor, " far"]
    told: Float[Tensor, "layers batch gates"]  # the frame's conditions and all biases
    told_out: Float[Tensor, "batch skip"]
    ahead: Float[Tensor, "far steps batch gates"]  # told, and what the far layers' past taps add
    gated: Float[Tensor, "batch width"]
    spread: Float[Tensor, "batch spread"]  # the residual and the skips so far
    hidden: Float[Tensor, "batch skip"]
    logits: Float[Tensor, "steps batch codes"]
    uniform: Float[Tensor, "steps batch"]
    code: Int[Tensor, "steps batch"]


def plan(decoder: Decoder) -> Plan:
    """The longest chunks that fill a frame exactly."""
    steps = math.gcd(decoder.hop, AHEAD)
    dilation = [block.dilated.dilation[0] for block in decoder.blocks]
    taps = decoder.start.kernel_size[0]
    later = range(1, len(dilation))
    near = [layer for layer in later if dilation[layer] < steps or taps == 1]
    far = [layer for layer in later if layer not in near]
    reach = (taps - 1) * max((dilation[layer] for layer in near), default=0)
    order = near + far
    return Plan(steps, order, {layer: at for at, layer in enumerate(order)}, len(near), dilation, reach, taps)


def load(decoder: Decoder, plan: Plan, stored: torch.dtype, real: torch.dtype) -> Weights:
    """The decoder's weights, folded, where the decoder is; the large matrices in `stored`."""
    folded, device = fold(decoder), decoder.start.weight.device
    width, gates = folded.start.shape[1], folded.first.shape[1]
    skip = len(folded.out)

    def small(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, real)

    def large(matrices: list[np.ndarray], *shape: int) -> Tensor:
        held = torch.empty(len(matrices), *shape, dtype=stored, device=device)
        for place, matrix in zip(held, matrices, strict=True):
            place.copy_(torch.from_numpy(matrix).view(place.shape))
        return held

    def newest_first(matrix: np.ndarray) -> np.ndarray:
        """[gates, past * width], the oldest tap first -> [past, width, gates]."""
        return np.ascontiguousarray(matrix.reshape(gates, plan.taps - 1, width)[:, ::-1].transpose(1, 2, 0))

    last = np.zeros((width, width), folded.skip[0].dtype)
    both = zip([*folded.residual, last], folded.skip, strict=True)
    spread_bias = np.zeros((len(plan.dilation), width + skip))
    spread_bias[:-1, :width] = folded.residual_bias
    told = [0, *plan.order]
    return Weights(
        opening=small(_opening(folded)),
        opening_bias=small(np.append(np.zeros(width), folded.said_bias)),
        condition=small(folded.condition[told]),
        condition_bias=small(folded.condition_bias[told]),
        now=large([np.ascontiguousarray(folded.current[n - 1].T) for n in plan.order], width, gates),
        past=large([newest_first(folded.past[n - 1]) for n in plan.order], plan.taps - 1, width, gates),
        spread=large([np.ascontiguousarray(np.vstack(pair).T) for pair in both], width, width + skip),
        spread_bias=small(spread_bias),
        out=small(folded.out.T),
        out_condition=small(folded.out_condition),
        out_bias=small(folded.out_bias),
        logits=small(folded.logits.T),
        logits_bias=small(folded.logits_bias),
    )


def begin(plan: Plan, weights: Weights, batch: int) -> State:
    """Voices that have heard nothing: zeros are the padding the decoder begins with."""
    real, stored, device = weights.opening.dtype, weights.now.dtype, weights.opening.device
    width, (layers, gates), skip = weights.now.shape[1], weights.condition_bias.shape, len(weights.out)
    far = torch.tensor([plan.dilation[n] for n in plan.order[plan.near :]], dtype=torch.long, device=device)
    length = (plan.taps - 1) * far
    step, tap = torch.arange(plan.steps, device=device), torch.arange(1, plan.taps, device=device)

    def zeros(*shape: int, dtype: torch.dtype = real) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    heard = zeros(2 * plan.taps - 1 + plan.steps, 2, batch)
    heard[2 * plan.taps - 2 :, 1] = 1
    return State(
        clock=zeros(dtype=torch.long),
        heard=heard,
        inputs=zeros(layers - 1, plan.reach + plan.steps, batch, width, dtype=stored),
        ring=zeros(int(length.sum()), batch, width, dtype=stored),
        reading=step[None, :, None] - tap[None, None] * far[:, None, None],
        writing=step.repeat(len(far), 1),
        base=length.cumsum(0) - length,
        length=length,
        told=zeros(layers, batch, gates),
        told_out=zeros(batch, skip),
        ahead=zeros(len(far), plan.steps, batch, gates),
        gated=zeros(batch, width, dtype=stored),
        spread=zeros(batch, width + skip),
        hidden=zeros(batch, skip),
        logits=zeros(plan.steps, batch, CODES),
        uniform=zeros(plan.steps, batch, dtype=torch.float64),
        code=zeros(plan.steps, batch, dtype=torch.long),
    )


def _opening(folded: Folded) -> np.ndarray:
    """Rows in pairs, the oldest sample heard first: what its level adds, and what its being there adds."""
    taps, width = folded.start.shape
    lags, gates = folded.first.shape
    rows = np.zeros((lags, 2, gates + width + folded.said.shape[1]))
    rows[:, 0, :gates] = folded.first
    rows[:taps, 0, gates:] = np.hstack([folded.start, folded.said])
    rows[:taps, 1, :gates] = np.diff(folded.first_bias, axis=0, prepend=0)  # padding is zero, not the start's bias
    return rows[::-1].reshape(2 * lags, -1)
