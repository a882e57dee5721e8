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
    spread: Float[Tensor, "batch spread"],
) -> None:
    """The first layer's gated output, and what the residual and the skips begin with."""
    gates, begun = (heard.flatten(0, 1).T @ weight).tensor_split([told.shape[1]], dim=1)
    _gate(gates + told, gated)
    torch.add(begun, bias, out=spread)


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


def gate(
    inputs: Float[Tensor, "time batch width"],
    now: int,
    dilation: int,
    weight: Float[Tensor, "width gates"],
    past: Float[Tensor, "past width gates"],
    told: Float[Tensor, "batch gates"],
    gated: Float[Tensor, "batch width"],
) -> None:
    """A layer's gated output; `past` is empty where `told` holds what the past adds."""
    gates = told + product(inputs[now], weight, told.dtype)
    for tap, earlier in enumerate(past, 1):
        gates += product(inputs[now - tap * dilation], earlier, told.dtype)
    _gate(gates, gated)


def spread(
    gated: Float[Tensor, "batch width"],
    weight: Float[Tensor, "width spread"],
    bias: Float[Tensor, " spread"],
    total: Float[Tensor, "batch spread"],
    following: Float[Tensor, "batch width"] | None,
) -> None:
    """Add a layer's residual and skip to the totals, and hand the residual to the layer that follows."""
    total += product(gated, weight, total.dtype) + bias
    if following is not None:
        following.copy_(total[:, : gated.shape[1]])


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
