"""Who owns what: rows of a decoder dealt out to a GPU's blocks, and where everything lies in their memories."""

import math
from typing import NamedTuple

import numpy as np
import torch

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler.weights import Folded, fold, to_bf16, to_int8

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of a weight
THREADS = 256  # of a block
COLUMNS = 16  # inputs, of all voices, whose past taps are computed together: weights are read once for them
AHEAD = 8  # samples they may span
MOST_TRIES = 1 << 22  # looks for a number that does not come before a block gives up: some seconds


class Plan(NamedTuple):
    """Sizes of a decoder, channels rounded up to whole vectors, and how the work is dealt out."""

    width: int
    skip: int
    layers: int
    stages: int
    taps: int
    dims: int
    hop: int
    voices: int
    blocks: int
    threads: int
    window: int  # samples whose past taps are computed together
    resident: int  # layers whose weights stay in shared memory
    precision: str

    @property
    def channels(self) -> int:
        """How many channels of every layer a block owns; the last may own fewer."""
        return -(-self.width // self.blocks)

    @property
    def says(self) -> int:
        """How many rows of the skip a block owns."""
        return -(-self.skip // self.blocks)

    @property
    def scores(self) -> int:
        """How many codes a block scores."""
        return -(-CODES // self.blocks)

    @property
    def slab(self) -> int:
        """Vectors, of 16 bytes, of a layer's weights that a block needs when the layer's turn comes."""
        return (3 * self.channels + self.says) * self.width * BYTES[self.precision] // 16

    @property
    def ahead(self) -> int:
        """Samples, of all layers together, for which sums of past taps are kept."""
        return sum((self.taps - 1) * 2 ** (layer % self.stages) for layer in range(1, self.layers))

    @property
    def own(self) -> dict[str, tuple[int, ...]]:
        """What a block reads in every sample beside matrices, in order."""
        gates, layers, taps = 2 * self.channels, self.layers, self.taps
        scaled = self.precision == "int8"
        return {
            "first": (2 * taps - 1, gates),
            "first_bias": (taps, gates),
            "start": (taps, self.channels),
            "said": (taps, self.says),
            "said_bias": (self.says,),
            "residual_bias": (layers - 1, self.channels),
            "scores_bias": (self.scores,),
            "scale": (layers, gates + self.channels + self.says) if scaled else (0,),
            "past_scale": (layers - 1, taps - 1, gates) if scaled else (0,),
        }

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """What a block multiplies an embedding by, in order."""
        rows = self.layers * 2 * self.channels + self.says
        return {"weight": (self.dims, rows), "bias": (rows,)}

    @property
    def mail(self) -> dict[str, tuple[int, ...]]:
        """The boxes of numbers that blocks tell each other, in order; a word of 8 bytes each."""
        channels, says = (self.voices, self.width), (self.voices, self.skip)
        return {
            "x": (self.layers - 1, self.window, *channels),
            "z": (self.layers, *channels),
            "said": says,
            "hidden": says,
            "logits": (self.voices, CODES),
        }

    @property
    def shared(self) -> dict[str, tuple[int, ...]]:
        """A block's shared memory, in order; float32 each. The output's part needs the windows' room."""
        output = self.voices * (2 * self.skip + CODES) + 2 * self.voices * CODES  # the last are float64
        return {
            "x": (self.voices, self.width),
            "z": (self.voices, self.width),
            "window": (max(self.window * self.voices * self.width, output),),
            "said": (self.voices, self.says),
            "told": (self.voices, self.layers * 2 * self.channels + self.says),
            "level": (self.voices, 2 * self.taps),
            "own": (size(self.own),),
            "resident": (self.resident, self.slab, 4),
        }

    @property
    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        names = ("width", "skip", "layers", "stages", "taps", "dims", "hop", "voices", "threads", "window", "resident")
        sizes = {name: getattr(self, name) for name in (*names, "channels", "says", "scores", "slab", "ahead")}
        sizes |= {"past_slab": 2 * self.channels * self.width * BYTES[self.precision] // 16}
        sizes |= {"bytes": BYTES[self.precision], "own": size(self.own), "told": size(self.told)}
        sizes |= {"most_tries": MOST_TRIES}
        places = {"own": self.own, "told": self.told, "mail": self.mail}
        for memory, regions in places.items():
            sizes |= {f"{memory}_{name}": at for name, at in offsets(regions).items()}
        sizes |= {f"shared_{name}": 4 * at for name, at in offsets(self.shared, whole=4).items()}
        return {name.upper(): value for name, value in sizes.items()}

    @property
    def shared_bytes(self) -> int:
        """Shared memory that a block needs."""
        return 4 * size(self.shared, whole=4)


class Packed(NamedTuple):
    """The weights as blocks read them: [block, ...] each, channels beyond the last being zeros.

    Matrices are in the plan's precision, as bytes; rows of gates are a channel's sigmoid and tanh, in turn.
    """

    now: np.ndarray  # [block, layer, 2 * channels gates, channels residual, says skip; inputs]
    past: np.ndarray  # [block, layer - 1, tap - 1, 2 * channels gates; inputs], the newer tap first
    out: np.ndarray  # [block, says, skip] float32
    scores: np.ndarray  # [block, scores, skip] float32
    own: np.ndarray  # [block, `Plan.own`] float32
    told: np.ndarray  # [block, `Plan.told`] float32


def plan(decoder: Decoder, voices: int, *, precision: str, blocks: int, shared: int, threads: int = THREADS) -> Plan:
    """Deal a decoder out to at most so many blocks of so many bytes of shared memory each.

    Channels are dealt in equal numbers, to as few blocks as do so; what room is left holds weights.

    Raises:
        ValueError: so many voices do not fit the shared memory.
    """
    dilation = [block.dilated.dilation[0] for block in decoder.blocks]
    width, skip = (-(-n // 16) * 16 for n in (decoder.start.out_channels, decoder.out.out_channels))
    channels = -(-width // blocks)
    sizes = Plan(
        width=width,
        skip=skip,
        layers=len(dilation),
        stages=dilation.index(max(dilation)) + 1,
        taps=decoder.start.kernel_size[0],
        dims=decoder.embedding_dims,
        hop=decoder.hop,
        voices=voices,
        blocks=-(-width // channels),
        threads=threads,
        window=min(AHEAD, 2 ** int(math.log2(COLUMNS // voices)), max(dilation)),
        resident=0,
        precision=precision,
    )
    assert dilation == [2 ** (layer % sizes.stages) for layer in range(sizes.layers)]
    while sizes.window > 1 and sizes.shared_bytes > shared:
        sizes = sizes._replace(window=sizes.window // 2)
    left = shared - sizes.shared_bytes
    if left < 0:
        raise ValueError(
            f"{voices} voices of width {width} need {sizes.shared_bytes} bytes of shared memory a block, and here are "
            f"{shared}: open fewer voices, or engine='batched'"
        )
    return sizes._replace(resident=min(sizes.layers, left // (16 * sizes.slab)))


def pack(decoder: Decoder, plan: Plan) -> Packed:
    """A decoder's weights, folded, dealt out and in the plan's precision."""
    folded = fold(decoder)
    now, scale = _store(_now(folded, plan), plan.precision)
    past, past_scale = _store(_past(folded, plan), plan.precision)
    scaled = plan.precision == "int8"
    own = {
        "first": _gates(folded.first, plan),
        "first_bias": _gates(folded.first_bias, plan),
        "start": _deal(folded.start, plan.channels, plan),
        "said": _deal(folded.said, plan.says, plan),
        "said_bias": _deal(folded.said_bias, plan.says, plan),
        "residual_bias": _deal(folded.residual_bias, plan.channels, plan),
        "scores_bias": _deal(folded.logits_bias, plan.scores, plan),
        "scale": scale if scaled else np.zeros((plan.blocks, 0)),
        "past_scale": past_scale if scaled else np.zeros((plan.blocks, 0)),
    }
    conditions = [_gates(folded.condition[layer], plan) for layer in range(plan.layers)]
    biases = [_gates(folded.condition_bias[layer], plan) for layer in range(plan.layers)]
    told = {
        "weight": np.concatenate([*conditions, _deal(folded.out_condition, plan.says, plan)], axis=-1),
        "bias": np.concatenate([*biases, _deal(folded.out_bias, plan.says, plan)], axis=-1),
    }
    return Packed(
        now=now,
        past=past,
        out=_rows(folded.out, plan.says, plan.skip, plan),
        scores=_rows(folded.logits, plan.scores, plan.skip, plan),
        own=_table(own, plan.own),
        told=_table(told, plan.told),
    )


def offsets(regions: dict[str, tuple[int, ...]], whole: int = 1) -> dict[str, int]:
    """Where each of some arrays begins when they lie one after another, every one at a multiple of `whole`."""
    at, places = 0, {}
    for name, shape in regions.items():
        places[name] = at
        at += -(-math.prod(shape) // whole) * whole
    return places


def size(regions: dict[str, tuple[int, ...]], whole: int = 1) -> int:
    """How long they are together."""
    return offsets(regions | {"": (0,)}, whole)[""]


def _now(folded: Folded, plan: Plan) -> np.ndarray:
    layers = []
    for i in range(plan.layers):
        gates = _gate_rows(folded.current[i - 1], plan) if i else _no_rows(2 * plan.channels, plan)
        last = i == plan.layers - 1
        residual = _no_rows(plan.channels, plan) if last else _rows(folded.residual[i], plan.channels, plan.width, plan)
        layers.append(np.concatenate([gates, residual, _rows(folded.skip[i], plan.says, plan.width, plan)], axis=1))
    return np.stack(layers, axis=1)


def _past(folded: Folded, plan: Plan) -> np.ndarray:
    """The taps of every layer but the first, the newer first."""
    shape = (plan.blocks, plan.layers - 1, plan.taps - 1, 2 * plan.channels, plan.width)
    dealt = np.zeros(shape, np.float32)
    for i, matrix in enumerate(folded.past):
        for tap, oldest_first in enumerate(np.split(matrix, plan.taps - 1, axis=1) if plan.taps > 1 else []):
            dealt[:, i, plan.taps - 2 - tap] = _gate_rows(oldest_first, plan)
    return dealt


def _deal(array: np.ndarray, each: int, plan: Plan) -> np.ndarray:
    """The last axis in equal parts, the first block's first: [block, ..., each]."""
    padded = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, plan.blocks * each - array.shape[-1])])
    return np.moveaxis(padded.reshape(*array.shape[:-1], plan.blocks, each), -2, 0)


def _gates(array: np.ndarray, plan: Plan) -> np.ndarray:
    """The last axis, all sigmoid rows and then all tanh rows, dealt as channels: [block, ..., 2 * channels]."""
    halves = np.stack([_deal(half, plan.channels, plan) for half in np.split(array, 2, axis=-1)], axis=-1)
    return halves.reshape(*halves.shape[:-2], -1)


def _rows(matrix: np.ndarray, each: int, inputs: int, plan: Plan) -> np.ndarray:
    wide = np.pad(matrix, [(0, 0), (0, inputs - matrix.shape[1])]).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(_deal(wide.T, each, plan), 1, 2))


def _gate_rows(matrix: np.ndarray, plan: Plan) -> np.ndarray:
    wide = np.pad(matrix, [(0, 0), (0, plan.width - matrix.shape[1])]).astype(np.float32)
    return np.moveaxis(_gates(wide.T, plan), 1, 2)


def _no_rows(rows: int, plan: Plan) -> np.ndarray:
    return np.zeros((plan.blocks, rows, plan.width), np.float32)


def _table(arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    for name, shape in shapes.items():
        assert arrays[name].size == len(arrays[name]) * math.prod(shape), (name, arrays[name].shape, shape)
    return np.concatenate([arrays[name].reshape(len(arrays[name]), -1) for name in shapes], axis=1).astype(np.float32)


def _store(matrices: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of weights in a precision, and what each must be multiplied by: [block, ...]."""
    if precision == "int8":
        whole, scale = to_int8(matrices.reshape(-1, matrices.shape[-1]))
        return whole.reshape(matrices.shape), scale.reshape(matrices.shape[:-1])
    return (to_bf16(matrices) if precision == "bf16" else matrices), np.ones(matrices.shape[:-1], np.float32)


def to_device(packed: Packed, device: torch.device) -> dict[str, torch.Tensor]:
    """Every array as bytes on a device."""
    arrays = packed._asdict().items()
    return {name: torch.from_numpy(np.ascontiguousarray(a).reshape(-1).view(np.uint8)).to(device) for name, a in arrays}
