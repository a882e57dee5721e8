"""Who owns what: a decoder's rows dealt out to a GPU's blocks, and where everything lies in their memories."""

import math
from typing import Any, NamedTuple

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler import DoesNotFit
from wavenet_ae.sampler.cuda import dealing

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}  # of a weight
HEARING, ADDING, REMEMBERING = 4, 1, 7  # warps of a block: hear and multiply; add up; compute what the past adds
GROUP = 16  # channels that a tensor core multiplies at once
BANKS = 32  # of shared memory, a word wide
MOST_VOICES = 8  # the columns of a tensor core's tile; beyond that `batched` is the engine
COLUMNS = 16  # inputs, of all voices, whose past taps are computed together: weights are read once for them
AHEAD = 8  # samples they may span
MOST_TRIES = 1 << 22  # looks for a number that does not come before a block gives up: some seconds


class Plan(NamedTuple):
    """Sizes of a decoder, channels rounded up to whole groups, and how the work is dealt out."""

    width: int
    skip: int
    layers: int
    stages: int
    taps: int
    dims: int
    hop: int
    voices: int
    blocks: int
    hearing: int  # warps of a block
    remembering: int
    window: int  # samples whose past taps are computed together
    resident: int  # layers whose weights stay in shared memory
    kept: int  # of the others, those whose weights are to stay in the second-level cache
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
    def rows(self) -> int:
        """Rows of a block's matrices that a layer's numbers are multiplied by: gates, residual, skip."""
        return 3 * self.channels + self.says

    @property
    def groups(self) -> int:
        """Groups of channels that a hearing warp multiplies."""
        return -(-self.width // (GROUP * self.hearing))

    @property
    def quad(self) -> int:
        """Groups of which 16 bytes hold a lane's four weights of a row."""
        return 4 // BYTES[self.precision]

    @property
    def halves(self) -> tuple[int, int]:
        """Eights of rows of a layer's outputs and of its inputs, which the gates alone read."""
        return -(-self.rows // 8), -(-2 * self.channels // 8)

    @property
    def slab(self) -> int:
        """16-byte vectors of a layer's weights that a block needs when the layer's turn comes."""
        return sum(self.halves) * -(-self.groups // self.quad) * self.hearing * 32

    @property
    def places(self) -> int:
        """Columns for the voices."""
        return 1 << (self.voices - 1).bit_length()

    @property
    def part_row(self) -> int:
        """Room for a row's sums by each hearing warp, of all voices, so that rows do not begin in one bank."""
        sums = self.places * (1 << (self.hearing - 1).bit_length())
        return sums if sums % BANKS else sums + 4

    @property
    def ring(self) -> int:
        """Samples whose numbers of a layer are there: those of a window, and as many to come."""
        return 2 * self.window

    @property
    def exchanges(self) -> int:
        """How often in a sample all blocks wait for each other."""
        return self.layers + 3

    @property
    def ahead(self) -> int:
        """Samples, of all layers together, for which sums of past taps are kept."""
        return sum((self.taps - 1) * 2 ** (layer % self.stages) for layer in range(1, self.layers))

    @property
    def own(self) -> dict[str, tuple[int, ...]]:
        """What a block reads in every sample beside matrices, in order."""
        return dealing.own_shapes(self, (self.rows,), (self.taps - 1, 2 * self.channels))

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """What a block multiplies an embedding by, in order."""
        return dealing.told_shapes(self)

    @property
    def mail(self) -> dict[str, tuple[int, ...]]:
        """The boxes of numbers that blocks tell each other, in order; a word of 4 bytes each."""
        planes = 1 if BYTES[self.precision] < 4 else 2  # a channel's input and output in one word, or in two
        says = (self.voices, self.skip)
        return {
            "channels": (self.layers, self.ring, planes, self.width // GROUP, self.places, GROUP),
            "said": says,
            "hidden": says,
            "logits": (self.voices, CODES),
        }

    @property
    def shared(self) -> dict[str, tuple[int, ...]]:
        """A block's shared memory, in order; 4 bytes each."""
        return {
            "parts": (2, -(-self.rows // 16) * 16, self.part_row),  # of sums
            "heard": (self.voices, self.skip),
            "hidden": (self.voices, self.skip),
            "logits": (self.voices, CODES),
            "odds": (self.voices, CODES, 2),  # float64
            "told": (self.voices, self.layers * 2 * self.channels + self.says),
            "level": (self.voices, 2 * self.taps),
            "own": (size(self.own),),
            "done": (self.layers,),
            "heard_of": (1,),
            "resident": (self.resident, self.slab, 4),
        }

    @property
    def kernel(self) -> str:
        """The file of the kernel."""
        return "voices.cu"

    @property
    def cluster(self) -> int:
        """Blocks that reach into each other's shared memory: none, but they share the GPU's."""
        return 0

    @property
    def grid(self) -> int:
        """Blocks of a launch."""
        return self.blocks

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.hearing + ADDING + self.remembering)

    @property
    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        names = ("width", "skip", "layers", "stages", "taps", "dims", "hop", "voices", "window", "resident", "kept")
        derived = (
            "hearing",
            "remembering",
            "threads",
            "ring",
            "channels",
            "says",
            "scores",
            "slab",
            "ahead",
            "part_row",
        )
        sizes = {name: getattr(self, name) for name in (*names, *derived)}
        sizes |= {"hearers": 32 * self.hearing, "bytes": BYTES[self.precision], "half": int(self.precision != "bf16")}
        sizes |= {"own": size(self.own), "told": size(self.told)}
        sizes |= {"most_tries": MOST_TRIES, "waits": 1, "multiplies": 1}
        places = {"own": self.own, "told": self.told, "mail": self.mail}
        for memory, regions in places.items():
            sizes |= {f"{memory}_{name}": at for name, at in offsets(regions).items()}
        sizes |= {f"shared_{name}": 4 * at for name, at in offsets(self.shared, whole=4).items()}
        return {name.upper(): value for name, value in sizes.items()}

    @property
    def shared_bytes(self) -> int:
        """Shared memory that a block needs."""
        return 4 * size(self.shared, whole=4)


def plan(decoder: Decoder, voices: int, *, precision: str, blocks: int, shared: int, **changed: Any) -> Plan:
    """Deal a decoder out to at most so many blocks of so many bytes of shared memory each.

    Channels are dealt in equal numbers, to as few blocks as do so; what room is left holds weights. `changed`
    are sizes to be measured or tested with.

    Raises:
        DoesNotFit: so many voices need more shared memory.
    """
    dilation = [block.dilated.dilation[0] for block in decoder.blocks]
    width, skip = (-(-n // GROUP) * GROUP for n in (decoder.start.out_channels, decoder.out.out_channels))
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
        hearing=sharing(width // GROUP, changed.pop("hearing", HEARING)),
        remembering=REMEMBERING if BYTES[precision] < 4 else REMEMBERING // 2,  # float32 needs more registers
        window=min(AHEAD, 2 ** int(math.log2(COLUMNS // voices)), max(dilation)),
        resident=0,
        kept=0,
        precision=precision,
    )._replace(**changed)
    assert dilation == [2 ** (layer % sizes.stages) for layer in range(sizes.layers)]
    left = shared - sizes.shared_bytes
    if left < 0:
        raise DoesNotFit(
            f"{voices} voices of width {width} need {sizes.shared_bytes} bytes of shared memory a block, and here are "
            f"{shared}: open fewer voices, or engine='batched'"
        )
    most = min(sizes.layers, left // (16 * sizes.slab))
    return sizes._replace(resident=min(most, changed.get("resident", most)))


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


def sharing(groups: int, most: int) -> int:
    """Warps that share so many groups evenly, none of them idle: one with nothing to wait for would run away."""
    each = -(-groups // most)
    return -(-groups // each)
