"""A WaveNet autoencoder's blocks for training on a CPU, compiled by numba: what the model says, sooner.

A layer in torch reads and writes all of a crop some twenty times on its way forth and back, and waits for
memory most of that time. Here a core takes a stretch of 96 samples through all of a block, from its taps to its
skip output, while its numbers stay in the nearest caches; nothing is copied to lay taps side by side.
What a block's gradient needs is kept: in the decoder its input, its gates' halves and what they let through, in the
encoder what its two ReLUs let through.

The model is what models/wavenet.py says, and the only one that says what is right: these are its `through`, fast.
Every thread adds up gradients of all weights apart, so that wide models are left to torch.
"""

import functools
import logging
import threading
from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from wavenet_ae.models.wavenet import Conv1d, Decoder, Encoder, WaveNetAutoencoder
from wavenet_ae.sampler.cpu import cores
from wavenet_ae.sampler.cpu.meeting import SPINS, begin, together
from wavenet_ae.training.stretches import decoder, encoder
from wavenet_ae.training.stretches.stretch import LENGTH, Gradients, Sizes, Weights, nothing
from wavenet_ae.training.stretches.tile import IS_FOR_THIS_CORE, MULTIPLE, PANEL

WIDEST = 128
log = logging.getLogger(__name__)


def unavailable(model: torch.nn.Module) -> str | None:
    """Why a model's blocks cannot be computed here, or None if they can."""
    if not isinstance(model, WaveNetAutoencoder):
        return f"a {type(model).__name__} has other blocks"
    weight = model.decoder.start.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return f"they compute in float32 on a CPU, not in {str(weight.dtype).removeprefix('torch.')} on {weight.device}"
    if len(model.decoder.blocks) < 2:
        return "its decoder has one block"
    if not IS_FOR_THIS_CORE or numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return "numba is told not to compile" if IS_FOR_THIS_CORE else "they are for x86 cores with AVX"
    widths = [_width(model.encoder), _width(model.decoder), len(model.decoder.out.weight)]
    if any(width % MULTIPLE or width > WIDEST for width in widths):
        return f"its widths are {', '.join(map(str, widths))}: not all are multiples of {MULTIPLE} up to {WIDEST}"
    return None


def replace(model: WaveNetAutoencoder) -> None:
    """Have the blocks of a model that is not `unavailable` computed here; as many threads as torch has."""
    model.encoder.through = functools.partial(_through_encoder, model.encoder)  # type: ignore[method-assign]
    model.decoder.through = functools.partial(_through_decoder, model.decoder)  # type: ignore[method-assign]
    _compile(model)


def _compile(model: WaveNetAutoencoder) -> None:
    """Now rather than in the first step, whose time is the run's."""
    said = threading.Timer(2, log.info, ["the blocks are compiled, once for this machine: some 20 s"])
    said.start()
    try:
        logits = model(torch.zeros(1, model.hop, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        logits.sum().backward()
    finally:
        said.cancel()
    model.zero_grad(set_to_none=True)


def _through_encoder(half: Encoder, x: Float[Tensor, "batch width samples"]) -> Float[Tensor, "batch width samples"]:
    """See `Encoder.through`."""
    dilated, residual = [b.dilated for b in half.blocks], [b.residual for b in half.blocks]
    told = _matrices(dilated), _biases(dilated), _matrices(residual).squeeze(-1), _biases(residual)
    return _Rectified.apply(x.mT.contiguous(), *told, _delays(dilated)).mT


def _through_decoder(
    half: Decoder, x: Float[Tensor, "batch width samples"], embedding: Float[Tensor, "batch dims frames"]
) -> Float[Tensor, "batch skip samples"]:
    """See `Decoder.through`."""
    blocks = half.blocks
    dilated, residual, skip = [b.dilated for b in blocks], [b.residual for b in blocks[:-1]], [b.skip for b in blocks]
    condition = torch.einsum("bdf,ngd->nbfg", embedding, _matrices([b.condition for b in blocks]).squeeze(-1))
    # summed one by one: of biases stacked and then summed the gradients would share memory, and be clipped twice
    condition = condition + torch.stack([_bias(b.condition) + _bias(b.dilated) for b in blocks])[:, None, None]
    said = half.start_skip(x).mT + sum(map(_bias, skip))
    matrices = _matrices(dilated), _matrices(residual).squeeze(-1), _biases(residual), _matrices(skip).squeeze(-1)
    return _Gated.apply(x.mT.contiguous(), said, condition.contiguous(), *matrices, _delays(dilated)).mT


class _Rectified(torch.autograd.Function):
    """All blocks of an encoder: x is [batch, samples, width]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, matrix: Tensor, bias: Tensor, residual: Tensor, residual_bias: Tensor, delays: Tensor
    ) -> Tensor:
        weights = _weights(delays, matrix, residual, residual_bias)
        sizes = _sizes(x, matrix, frames=1, skip=0)
        out, heard, opened = x.clone(), _room(len(matrix), *x.shape), _room(len(matrix), *x.shape)
        torch.clamp(x, min=0, out=heard[0])
        _together(encoder.forth, weights, bias.detach().numpy(), *map(_flat, (out, heard, opened)), sizes)
        ctx.save_for_backward(heard, opened)
        ctx.told = weights, sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (heard, opened), (weights, sizes) = ctx.saved_tensors, ctx.told
        grad, sums = grad.clone(memory_format=torch.contiguous_format), torch.empty(grad.shape)
        total = nothing(sizes, crops=1, residuals=sizes.blocks)
        _together(encoder.back, weights, *map(_flat, (heard, opened, grad, sums)), total, sizes)
        found = _summed(total)
        matrix, residual = found.convolution.permute(0, 3, 2, 1), found.residual.mT
        return grad, matrix, found.bias[:, 0, 0], residual, found.residual_bias, None


class _Gated(torch.autograd.Function):
    """All blocks of a decoder: x is [batch, samples, width], `condition` [block, batch, frame, gate]."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any,
        x: Tensor,
        said: Tensor,
        condition: Tensor,
        matrix: Tensor,
        residual: Tensor,
        residual_bias: Tensor,
        skip: Tensor,
        delays: Tensor,
    ) -> Tensor:
        weights = _weights(delays, matrix, residual, residual_bias, skip)
        sizes = _sizes(x, matrix, frames=condition.shape[2], skip=skip.shape[1])
        xs, gated = _room(len(matrix), *x.shape), _room(len(matrix), *x.shape)
        opened, out = _room(len(matrix), *x.shape[:2], sizes.gates), said.clone(memory_format=torch.contiguous_format)
        xs[0] = x
        told, places = condition.detach().numpy(), map(_flat, (opened, gated, out))
        _together(decoder.forth, weights, _flat(xs), told, *places, sizes)
        ctx.save_for_backward(xs, opened, gated)
        ctx.told = weights, sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, said: Tensor) -> tuple[Tensor | None, ...]:
        (xs, opened, gated), (weights, sizes) = ctx.saved_tensors, ctx.told
        said, grad, sums = said.contiguous(), torch.zeros(xs.shape[1:]), torch.empty(opened.shape[1:])
        total = nothing(sizes, crops=sizes.crops, residuals=sizes.blocks - 1)
        kept, places = map(_flat, (xs, opened, gated)), map(_flat, (said, grad, sums))
        _together(decoder.back, weights, *kept, *places, total, sizes)
        found = _summed(total)
        matrix, residual = found.convolution.permute(0, 3, 2, 1), found.residual.mT
        return grad, said, found.bias, matrix, residual, found.residual_bias, found.skip.mT, None


def _weights(
    delays: Tensor, matrix: Tensor, residual: Tensor, residual_bias: Tensor, skip: Tensor | None = None
) -> Weights:
    """Matrices of all blocks: [block, output, input, tap], the others without taps."""
    skip = matrix[:0, :, :, 0] if skip is None else skip
    return Weights(
        delay=delays.numpy(),
        forth=_panels(matrix.permute(0, 3, 2, 1)),
        back=_panels(matrix.permute(0, 3, 1, 2)),
        residual_forth=_panels(residual.mT),
        residual_back=_panels(residual),
        residual_bias=residual_bias.detach().numpy(),
        skip_forth=_panels(skip.mT),
        skip_back=_panels(skip),
    )


def _sizes(x: Tensor, matrix: Tensor, *, frames: int, skip: int) -> Sizes:
    assert x.dtype == torch.float32, f"{x.dtype}: the model was made another after its blocks were replaced"
    (blocks, gates, width, taps), (crops, time) = matrix.shape, x.shape[:2]
    parts = min(torch.get_num_threads(), crops * -(-time // LENGTH))
    return Sizes(blocks, crops, time, frames, taps, width, gates, skip, parts)


def _together(entry: Any, *arguments: Any) -> None:
    """Call an entry in as many threads as there are parts; `arguments` end with the sizes."""
    parts, meetings = arguments[-1].parts, begin()
    together(lambda share: entry(*arguments, meetings, share), parts, SPINS if parts <= cores() else 0, meetings)


def _summed(total: Gradients) -> Gradients:
    """What all parts have added up, as tensors."""
    return Gradients(*(torch.from_numpy(each.sum(0)) for each in total))


def _room(*shape: int) -> Tensor:
    """Room for so many numbers. Speed: numpy asks the system for huge pages, each of which it finds but once."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _matrices(convs: Iterable[Conv1d]) -> Float[Tensor, "convs outputs inputs taps"]:
    return torch.stack([conv.weight for conv in convs])


def _biases(convs: Iterable[Conv1d]) -> Float[Tensor, "convs outputs"]:
    return torch.stack([_bias(conv) for conv in convs])


def _bias(conv: Conv1d) -> Tensor:
    assert conv.bias is not None, "ours all have one"
    return conv.bias


def _delays(convs: Iterable[Conv1d]) -> Tensor:
    return torch.tensor([conv.delays() for conv in convs])


def _panels(matrix: Float[Tensor, "*any inputs outputs"]) -> Any:
    """PANEL outputs side by side, input after input, then the next PANEL of them."""
    return _flat(matrix.unflatten(-1, (-1, PANEL)).movedim(-2, -3))


def _flat(tensor: Tensor) -> Any:
    """The same numbers as one row, for numba."""
    return tensor.detach().contiguous().view(-1).numpy()


def _width(half: Encoder | Decoder) -> int:
    return len(half.start.weight)
