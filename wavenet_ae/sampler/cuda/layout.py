"""Who owns what: a decoder's rows dealt out to a GPU's blocks, and where everything lies in their memories."""

import math
from typing import NamedTuple

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}  # of a weight
THREADS = 256  # of a block
MOST_VOICES = 8  # beyond that `batched` is the engine: the exchange would carry too much
WEIGHTS_A_SAMPLE = 66_000_000  # bytes: an H200's blocks keep 26 MB and its L2 cache gives 40 MB at full rate
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
    folded: int  # layers, from the third on, that do not wait for the sum they are made of
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
    def gates_slab(self) -> int:
        """Vectors of one matrix of a layer's gates that a block owns."""
        return 2 * self.channels * self.width * BYTES[self.precision] // 16

    @property
    def buffers(self) -> int:
        """Places for what blocks tell each other: two where a layer is told before the last is done with."""
        return 2 if self.folded else 1

    @property
    def exchanges(self) -> int:
        """How often in a sample all blocks wait for each other."""
        return 2 * self.layers - 1 - self.folded + 3

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
            "x": (self.buffers, 2, self.voices, self.width),  # a layer's inputs and outputs
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
        derived = ("folded", "buffers", "channels", "says", "scores", "slab", "gates_slab", "ahead")
        sizes = {name: getattr(self, name) for name in (*names, *derived)}
        sizes |= {"bytes": BYTES[self.precision], "own": size(self.own), "told": size(self.told)}
        sizes |= {"half": int(self.precision == "fp16"), "most_tries": MOST_TRIES, "waits": 1, "multiplies": 1}
        places = {"own": self.own, "told": self.told, "mail": self.mail}
        for memory, regions in places.items():
            sizes |= {f"{memory}_{name}": at for name, at in offsets(regions).items()}
        sizes |= {f"shared_{name}": 4 * at for name, at in offsets(self.shared, whole=4).items()}
        return {name.upper(): value for name, value in sizes.items()}

    @property
    def shared_bytes(self) -> int:
        """Shared memory that a block needs."""
        return 4 * size(self.shared, whole=4)


def plan(decoder: Decoder, voices: int, *, precision: str, blocks: int, shared: int, folded: int | None = None) -> Plan:
    """Deal a decoder out to at most so many blocks of so many bytes of shared memory each.

    Channels are dealt in equal numbers, to as few blocks as do so; what room is left holds weights. `folded`
    is how many layers are; None is as many as the weights that must be read for them allow.

    Raises:
        ValueError: so many voices do not fit the shared memory.
    """
    dilation = [block.dilated.dilation[0] for block in decoder.blocks]
    width, skip = (-(-n // 16) * 16 for n in (decoder.start.out_channels, decoder.out.out_channels))
    if len(dilation) == 1:  # a block that scores no code would hold nobody back, and be overtaken by a sample
        blocks = min(blocks, 16)
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
        threads=THREADS,
        window=min(AHEAD, 2 ** int(math.log2(COLUMNS // voices)), max(dilation)),
        folded=0,
        resident=0,
        precision=precision,
    )
    assert dilation == [2 ** (layer % sizes.stages) for layer in range(sizes.layers)]
    folded = _foldable(sizes, shared) if folded is None else max(0, min(folded, sizes.layers - 2))
    sizes = sizes._replace(folded=folded)
    while sizes.window > 1 and sizes.shared_bytes > shared:
        sizes = sizes._replace(window=sizes.window // 2)
    left = shared - sizes.shared_bytes
    if left < 0:
        raise ValueError(
            f"{voices} voices of width {width} need {sizes.shared_bytes} bytes of shared memory a block, and here are "
            f"{shared}: open fewer voices, or engine='batched'"
        )
    return sizes._replace(resident=min(sizes.layers, left // (16 * sizes.slab)))


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


def _foldable(sizes: Plan, shared: int) -> int:
    """How many layers to fold: their second matrices join what is read in every sample.

    That changes the rounding, so it must not depend on the number of voices, and room is counted for the most.
    """
    fullest = sizes._replace(voices=MOST_VOICES, window=1, folded=1)
    if sizes.layers < 3 or fullest.shared_bytes > shared:
        return 0
    square = sizes.width**2 * BYTES[sizes.precision]
    now = sizes.layers * (3 * square + sizes.skip * sizes.width * BYTES[sizes.precision])
    return max(0, min(sizes.layers - 2, (WEIGHTS_A_SAMPLE - now) // (2 * square)))
