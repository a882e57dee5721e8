"""Who owns what in a choir: rows dealt out to a cluster's blocks, and where everything lies in their memories."""

import math
from typing import Any, NamedTuple

from wavenet_ae.models.wavenet import Decoder
from wavenet_ae.mulaw import CODES
from wavenet_ae.sampler import DoesNotFit
from wavenet_ae.sampler.cuda import dealing
from wavenet_ae.sampler.cuda.layout import BYTES, GROUP, offsets, sharing, size

KPARTS, MPARTS = 4, 2  # warps of a block that multiply: so many parts of the inputs, and of the rows
FEEDING = 4  # warps of which one copies: registers are given away by as many together
SIZE = 16  # blocks of a choir: the most that an H100 lets talk to each other; the fewer, the less reading is shared
EIGHT = 8  # channels at least that a block owns: 16-bit numbers are told in vectors of so many
COLUMNS = 8  # of a tensor core's tile: a choir of fewer voices would read all weights for less
MOST_VOICES = 40  # of a choir: more would need more registers than there are
AHEAD = 8  # samples at most whose past taps are computed together
PIECES = (3, 16)  # of the tape that are there at once: fewer would not hide the time they take to come
BOXES = 6  # that the blocks of a choir tell each other in a sample
MOST_TRIES = 1 << 19  # looks for what does not come, of up to two microseconds each, before a block gives up


class Plan(NamedTuple):
    """Sizes of a decoder, channels rounded up to what blocks share evenly, and how the work is dealt out."""

    width: int
    skip: int
    layers: int
    stages: int
    taps: int
    dims: int
    hop: int
    voices: int  # of a choir
    choirs: int
    size: int  # blocks of a choir
    kparts: int
    mparts: int
    window: int  # samples whose past taps are computed together
    pieces: int  # of the tape that are in shared memory
    gathers: int  # 1: a block tells all its channels' numbers in one copy to each other, not each as it is known
    precision: str

    @property
    def blocks(self) -> int:
        """Among how many rows are dealt out."""
        return self.size

    @property
    def channels(self) -> int:
        """How many channels of every layer a block owns."""
        return self.width // self.size

    @property
    def says(self) -> int:
        """How many rows of the skip a block owns."""
        return self.skip // self.size

    @property
    def scores(self) -> int:
        """How many codes a block scores."""
        return CODES // self.size

    @property
    def spread(self) -> int:
        """Rows that a layer's outputs are multiplied by: the residual's, and the skip's."""
        return self.channels + self.says

    @property
    def quad(self) -> int:
        """Groups of which 16 bytes hold a lane's four weights of a row."""
        return 4 // BYTES[self.precision]

    @property
    def quads(self) -> int:
        """Pieces of the tape that a matrix takes."""
        return -(-self.width // (GROUP * self.kparts * self.quad))

    @property
    def tiles(self) -> tuple[int, int]:
        """Sixteens of rows of a block's gates, and of what its outputs spread to."""
        return -(-2 * self.channels // 16), -(-self.spread // 16)

    @property
    def piece(self) -> int:
        """Bytes of a piece of the tape, at most."""
        return 1024 * self.kparts * max(self.tiles)

    @property
    def tape(self) -> int:
        """16-byte vectors of a block's weights: past taps, then each layer's gates (but the first's) and spread."""
        gates, spread = (64 * self.kparts * self.quads * tiles for tiles in self.tiles)
        return (self.layers - 1) * self.taps * gates + self.layers * spread

    @property
    def places(self) -> int:
        """Columns for the voices."""
        return 1 << (self.voices - 1).bit_length() if self.voices < 8 else -(-self.voices // 8) * 8

    @property
    def dilation(self) -> list[int]:
        """Of the layers after the first."""
        return [2 ** (layer % self.stages) for layer in range(1, self.layers)]

    @property
    def history(self) -> int:
        """Samples, of all layers together, whose inputs are kept."""
        return sum((self.taps - 1) * gap for gap in self.dilation)

    @property
    def ahead(self) -> int:
        """Samples, of all layers together, for which sums of past taps are kept."""
        return sum(min(gap, self.window) for gap in self.dilation)

    @property
    def own(self) -> dict[str, tuple[int, ...]]:
        """What a block reads in every sample beside matrices, in order."""
        gates = 2 * self.channels
        return dealing.own_shapes(self, (gates + self.spread,), (gates,))

    @property
    def told(self) -> dict[str, tuple[int, ...]]:
        """What a block multiplies an embedding by, in order."""
        return dealing.told_shapes(self)

    @property
    def shared(self) -> dict[str, tuple[int, ...]]:
        """A block's shared memory, in order; 4 bytes each."""
        number = 2 if BYTES[self.precision] < 4 else 4
        box = max(self.places * self.width * number // 4, self.voices * self.skip)
        own_voices = -(-self.voices // self.size)
        return {
            "inputs": (box,),
            "outputs": (box,),
            "parts": (self.kparts, self.places, 16 * max(self.tiles) + 4),
            "scored": (own_voices, CODES),
            "odds": (own_voices, CODES, 2),  # float64
            "code": (self.voices,),
            "level": (self.voices, 2 * self.taps),
            "own": (size(self.own),),
            "barriers": (BOXES + 2 * self.pieces, 2),
            "pieces": (self.pieces, self.piece // 4),
        }

    @property
    def kernel(self) -> str:
        """The file of the kernel."""
        return "choirs.cu"

    @property
    def grid(self) -> int:
        """Blocks of a launch."""
        return self.choirs * self.size

    @property
    def cluster(self) -> int:
        """Of how many blocks each can reach into each other's shared memory."""
        return self.size

    @property
    def threads(self) -> int:
        """Threads of a block: those that multiply; and one that copies, in as many warps as share registers."""
        singing = self.kparts * self.mparts
        return 32 * (singing + (FEEDING if singing == KPARTS * MPARTS else 1))

    @property
    def constants(self) -> dict[str, int]:
        """What the kernel is compiled with."""
        names = ("width", "skip", "layers", "stages", "taps", "dims", "hop", "voices", "size", "kparts", "mparts")
        derived = ("window", "pieces", "gathers", "threads", "channels", "says", "scores", "tape", "history", "ahead")
        sizes = {name: getattr(self, name) for name in (*names, *derived)}
        sizes |= {"bytes": BYTES[self.precision], "half": int(self.precision != "bf16"), "piece_bytes": self.piece}
        sizes |= {"own": size(self.own), "told": size(self.told)}
        sizes |= {"most_tries": MOST_TRIES, "waits": 1, "multiplies": 1}
        for memory, regions in {"own": self.own, "told": self.told}.items():
            sizes |= {f"{memory}_{name}": at for name, at in offsets(regions).items()}
        sizes |= {f"shared_{name}": 4 * at for name, at in offsets(self.shared, whole=4).items()}
        return {name.upper(): value for name, value in sizes.items()}

    @property
    def shared_bytes(self) -> int:
        """Shared memory that a block needs."""
        return 4 * size(self.shared, whole=4)


def plan(decoder: Decoder, batch: int, *, precision: str, together: int, shared: int, **changed: Any) -> Plan:
    """Deal a decoder out to choirs of blocks of so many bytes of shared memory each, `together` of them at a time.

    Voices are spread over all choirs that can be there together, or, where they have no room for so many, over
    several times as many; but not so thinly that tiles stay empty. `changed` are sizes to be measured or tested with.

    Raises:
        DoesNotFit: not even one voice fits.
    """
    dilation = [block.dilated.dilation[0] for block in decoder.blocks]
    width, skip = decoder.start.out_channels, decoder.out.out_channels
    asked = changed.pop("voices", None)
    blocks = changed.get("size", min(SIZE, 1 << (math.ceil(width / EIGHT) - 1).bit_length()))
    channels = _up(math.ceil(width / blocks), EIGHT if blocks > 1 else GROUP)
    kparts = sharing(channels * blocks // GROUP, changed.pop("kparts", KPARTS))
    sizes = Plan(
        width=channels * blocks,
        skip=_up(math.ceil(skip / blocks), 4) * blocks,
        layers=len(dilation),
        stages=dilation.index(max(dilation)) + 1,
        taps=decoder.start.kernel_size[0],
        dims=decoder.embedding_dims,
        hop=decoder.hop,
        voices=1,
        choirs=1,
        size=blocks,
        kparts=kparts,
        mparts=MPARTS,
        window=math.gcd(decoder.hop, AHEAD),
        pieces=PIECES[0],
        gathers=0,
        precision=precision,
    )._replace(**changed)
    assert dilation == [2 ** (layer % sizes.stages) for layer in range(sizes.layers)]
    most = next((n for n in range(MOST_VOICES, 0, -1) if sizes._replace(voices=n).shared_bytes <= shared), 0)
    if not most:
        raise DoesNotFit(
            f"one voice of width {width} needs {sizes.shared_bytes} bytes of shared memory a block, and here are "
            f"{shared}: use engine='batched'"
        )
    turns = math.ceil(batch / (together * most))
    wanted = asked or max(math.ceil(batch / (together * turns)), min(batch, COLUMNS))
    choirs = math.ceil(batch / min(wanted, most))
    sizes = sizes._replace(voices=math.ceil(batch / choirs), choirs=choirs)
    room = (shared - sizes.shared_bytes) // (sizes.piece + 16)
    return sizes._replace(pieces=changed.get("pieces", min(PIECES[1], sizes.pieces + room)))


def _up(number: int, whole: int) -> int:
    return -(-number // whole) * whole
