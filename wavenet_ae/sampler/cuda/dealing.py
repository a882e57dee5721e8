"""Rows of a decoder's matrices, dealt out to blocks that own channels, and stored in a precision."""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from wavenet_ae.sampler.weights import Folded, to_bf16


@runtime_checkable
class Sizes(Protocol):
    """Among whom rows are dealt out, and how many each owns."""

    @property
    def blocks(self) -> int:
        """That share a decoder."""
        ...

    @property
    def channels(self) -> int:
        """Of a layer."""
        ...

    @property
    def says(self) -> int:
        """Rows of the skip."""
        ...

    @property
    def scores(self) -> int:
        """Codes that are scored."""
        ...

    @property
    def width(self) -> int:
        """Inputs of a row, with those that pad it."""
        ...

    @property
    def layers(self) -> int:
        """In all."""
        ...

    @property
    def taps(self) -> int:
        """Of a dilated convolution."""
        ...

    @property
    def dims(self) -> int:
        """Numbers of an embedding's frame."""
        ...

    @property
    def precision(self) -> str:
        """How matrices are stored."""
        ...


@runtime_checkable
class Dealt(Sizes, Protocol):
    """The same, and the tables that each has."""

    @property
    def own(self) -> dict[str, tuple[int, ...]]:
        """What each reads in every sample beside matrices, in order."""
        ...

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """What each multiplies an embedding by, in order."""
        ...


def deal(array: np.ndarray, each: int, among: Dealt) -> np.ndarray:
    """The last axis in equal parts, the first block's first: [block, ..., each]."""
    padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, among.blocks * each - array.shape[-1])])
    return np.moveaxis(padded.reshape(*array.shape[:-1], among.blocks, each), -2, 0)


def gates(array: np.ndarray, among: Dealt) -> np.ndarray:
    """The last axis, all sigmoid rows and then all tanh rows, dealt as channels: [block, ..., 2 * channels]."""
    halves = np.stack([deal(half, among.channels, among) for half in np.split(array, 2, axis=-1)], axis=-1)
    return halves.reshape(*halves.shape[:-2], -1)


def rows(matrix: np.ndarray, each: int, inputs: int, among: Dealt) -> np.ndarray:
    """A matrix's rows, so many each, with so many inputs: [block, each, inputs]."""
    wide = np.pad(matrix, [(0, 0), (0, inputs - matrix.shape[1])]).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(deal(wide.T, each, among), 1, 2))


def gate_rows(matrix: np.ndarray, among: Dealt) -> np.ndarray:
    """The rows of a matrix of gates, a channel's two in turn: [block, 2 * channels, width]."""
    wide = np.pad(matrix, [(0, 0), (0, among.width - matrix.shape[1])]).astype(np.float32)
    return np.moveaxis(gates(wide.T, among), 1, 2)


def no_rows(rows: int, among: Dealt) -> np.ndarray:
    """Zeros in place of rows that are never heard."""
    return np.zeros((among.blocks, rows, among.width), np.float32)


def own_shapes(among: Sizes, rows: tuple[int, ...], past: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """What each reads in every sample beside matrices, in order; with scales of rows and past rows in int8."""
    gates, layers, taps = 2 * among.channels, among.layers, among.taps
    scaled = among.precision == "int8"
    return {
        "first": (2 * taps - 1, gates),
        "first_bias": (taps, gates),
        "start": (taps, among.channels),
        "said": (taps, among.says),
        "said_bias": (among.says,),
        "residual_bias": (layers - 1, among.channels),
        "scores_bias": (among.scores,),
        "scale": (layers, *rows) if scaled else (0,),
        "past_scale": (layers - 1, *past) if scaled else (0,),
    }


def told_shapes(among: Sizes) -> dict[str, tuple[int, ...]]:
    """What each multiplies an embedding by, in order."""
    rows = among.layers * 2 * among.channels + among.says
    return {"weight": (among.dims, rows), "bias": (rows,)}


def own(folded: Folded, scales: tuple[np.ndarray, np.ndarray] | None, among: Dealt) -> np.ndarray:
    """What blocks read in every sample beside matrices, [block, ...]; scales of rows and of past rows, if there are."""
    nothing = np.zeros((among.blocks, 0))
    scale, past_scale = scales or (nothing, nothing)
    tables = {
        "first": gates(folded.first, among),
        "first_bias": gates(folded.first_bias, among),
        "start": deal(folded.start, among.channels, among),
        "said": deal(folded.said, among.says, among),
        "said_bias": deal(folded.said_bias, among.says, among),
        "residual_bias": deal(folded.residual_bias, among.channels, among),
        "scores_bias": deal(folded.logits_bias, among.scores, among),
        "scale": scale,
        "past_scale": past_scale,
    }
    return _table(tables, among.own)


def told(folded: Folded, bias: np.ndarray, among: Dealt) -> np.ndarray:
    """What blocks multiply an embedding by, and what they add, [block, ...]; `bias` is the gates', [layer, gate]."""
    conditions = [gates(folded.condition[layer], among) for layer in range(among.layers)]
    biases = [gates(bias[layer], among) for layer in range(among.layers)]
    tables = {
        "weight": np.concatenate([*conditions, deal(folded.out_condition, among.says, among)], axis=-1),
        "bias": np.concatenate([*biases, deal(folded.out_bias, among.says, among)], axis=-1),
    }
    return _table(tables, among.told)


def past(folded: Folded, among: Dealt) -> np.ndarray:
    """The taps of every layer but the first, the newer first: [block, layer - 1, tap, gates, width]."""
    shape = (among.blocks, among.layers - 1, among.taps - 1, 2 * among.channels, among.width)
    dealt = np.zeros(shape, np.float32)
    for i, matrix in enumerate(folded.past):
        for tap, oldest_first in enumerate(np.split(matrix, among.taps - 1, axis=1) if among.taps > 1 else []):
            dealt[:, i, among.taps - 2 - tap] = gate_rows(oldest_first, among)
    return dealt


def _table(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    for name, shape in shapes.items():
        assert arrays[name].size == len(arrays[name]) * math.prod(shape), (name, arrays[name].shape, shape)
    return np.concatenate([arrays[name].reshape(len(arrays[name]), -1) for name in shapes], axis=1).astype(np.float32)


def scale(largest: np.ndarray) -> np.ndarray:
    """What whole numbers up to 127 are multiplied by for rows that go so far."""
    return np.where(largest > 0, largest, 127) / 127


def store(matrices: np.ndarray, largest: np.ndarray, precision: str) -> np.ndarray:
    """Rows of weights in a precision."""
    if precision == "int8":
        return np.rint(matrices / scale(largest)[..., None]).astype(np.int8)
    if precision == "fp16":
        return matrices.astype(np.float16)
    return to_bf16(matrices) if precision == "bf16" else matrices


def to_device(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """Every array as bytes on a device."""
    flat = {name: np.ascontiguousarray(array).reshape(-1).view(np.uint8) for name, array in arrays.items()}
    return {name: torch.from_numpy(array).to(device) for name, array in flat.items()}
