"""The batched engine's steps in plain torch, on any device: what the fused kernels must equal."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wavenet_ae import mulaw
from wavenet_ae.sampler import dice


def opening(
    heard: Float[Tensor, "lags 2 batch"],
    weight: Float[Tensor, "heard opened"],
    bias: Float[Tensor, " spread"],
    told: Float[Tensor, "batch gates"],
    gated: Float[Tensor, "batch width"],
    total: Float[Tensor, "batch spread"],
    begun: Float[Tensor, "batch width"],
) -> None:
    """The first layer's gated output, and what the residual and the skips begin with; `begun` is that residual."""
    gates, spread = (heard.flatten(0, 1).T @ weight).tensor_split([told.shape[1]], dim=1)
    _gate(gates + told, gated)
    torch.add(spread, bias, out=total)
    begun.copy_(total[:, : begun.shape[1]])


def recall(
    ring: Float[Tensor, "slots batch width"],
    slots: Int[Tensor, "far steps past"],
    weight: Float[Tensor, "far past width gates"],
    told: Float[Tensor, "far batch gates"],
    ahead: Float[Tensor, "far steps batch gates"],
) -> None:
    """What the far layers are told, and their past taps' products, for every step of a chunk."""
    ahead.copy_(told.unsqueeze(1))
    for tap in range(slots.shape[-1]):
        for layer, each in enumerate(ahead):
            each += product(ring[slots[layer, :, tap]].flatten(0, 1), weight[layer, tap], each.dtype).view_as(each)


def layer(
    x: Float[Tensor, "batch width"],
    gated: Float[Tensor, "batch width"],
    spread: tuple[Float[Tensor, "width spread"], Float[Tensor, " spread"]],
    total: Float[Tensor, "batch spread"],
    inputs: Float[Tensor, "time batch width"],
    now: int,
    dilation: int,
    weight: Float[Tensor, "both gates"],
    past: Float[Tensor, "past width gates"],
    told: Float[Tensor, "batch gates"],
    following: Float[Tensor, "batch width"],
) -> None:
    """From a layer's input `x` and gated output to those of the layer that follows.

    Its gates read the residual as the two parts it is made of, `x` and `gated`, so that nobody waits for their sum:
    that goes to `inputs[now]`, for the gates after these. `past` is empty where `told` holds what the past adds.
    """
    gates = told + product(torch.cat([x, gated], dim=1), weight, told.dtype)
    for tap, earlier in enumerate(past, 1):
        gates += product(inputs[now - tap * dilation], earlier, told.dtype)
    _gate(gates, following)
    last(gated, *spread, total)
    inputs[now] = total[:, : x.shape[1]]


def last(
    gated: Float[Tensor, "batch width"],
    weight: Float[Tensor, "width spread"],
    bias: Float[Tensor, " spread"],
    total: Float[Tensor, "batch spread"],
) -> None:
    """Add a layer's residual and skip to the totals."""
    total += product(gated, weight, total.dtype) + bias


def dense(
    x: Float[Tensor, "batch inputs"],
    weight: Float[Tensor, "inputs outputs"],
    bias: Float[Tensor, "#batch outputs"],
    out: Float[Tensor, "batch outputs"],
) -> None:
    """ReLU, then a matrix."""
    torch.add(x.relu() @ weight, bias, out=out)


def draw(
    logits: Float[Tensor, "batch codes"],
    uniform: Float[Tensor, " batch"],
    temperature: float,
    top_p: float,
    code: Int[Tensor, " batch"],
    level: Float[Tensor, " batch"],
) -> None:
    """The code that the die decides, and its level."""
    code.copy_(dice.draw(logits, uniform, temperature, top_p))
    level.copy_(mulaw.level(code, level.dtype))


def product(x: Tensor, weight: Tensor, real: torch.dtype) -> Tensor:
    """A matrix product of numbers as they are stored, summed in real numbers."""
    if x.dtype == real:
        return x @ weight
    if x.is_cuda:
        return torch.mm(x, weight, out_dtype=real)
    return x.to(real) @ weight.to(real)


def _gate(gates: Tensor, gated: Tensor) -> None:
    opened, value = gates.chunk(2, dim=1)
    gated.copy_(opened.sigmoid() * value.tanh())
