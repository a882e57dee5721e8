"""Writes TensorFlow's checkpoints as TensorFlow does: what the tests of the reader read besides the golden files."""

import struct
from pathlib import Path

import numpy as np

from wavenet_ae.magenta import crc

MAGIC = bytes.fromhex("57fb808b247547db")
DTYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number, value):
    """One field of a protocol buffer: an int as varint, bytes as a message."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def fixed32(number, value):
    return varint(number << 3 | 5) + struct.pack("<I", value)


def literals(data):
    """Snappy of the lazy kind: nothing repeats."""
    pieces = [data[i : i + 60] for i in range(0, len(data), 60)]
    return varint(len(data)) + b"".join(bytes([len(piece) - 1 << 2]) + piece for piece in pieces)


def block(items, restart=16):
    """A block of a table: keys without what they share with the one before, except at restart points."""
    out, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(items):
        shared = 0
        if i % restart:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return (
        bytes(out) + struct.pack(f"<{len(restarts) or 1}I", *(restarts or [0])) + struct.pack("<I", len(restarts) or 1)
    )


def table(blocks, compress=None):
    """A whole table of data blocks already made; their checksums are right whatever they hold."""
    out, handles = bytearray(), []

    def add(content):
        stored = (compress(content) if compress else content) + bytes([1 if compress else 0])
        handle = varint(len(out)) + varint(len(stored) - 1)
        out.extend(stored + struct.pack("<I", crc.masked(stored)))
        return handle

    handles = [(b"%05d" % i, add(content)) for i, content in enumerate(blocks)]
    footer = add(block([])) + add(block(handles, restart=1))
    return bytes(out) + footer.ljust(40, b"\0") + MAGIC


def entry(array, shard, offset):
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    fields = field(1, DTYPES[array.dtype.name]) + field(2, shape)
    fields += (field(3, shard) if shard else b"") + (field(4, offset) if offset else b"") + field(5, array.nbytes)
    return fields + fixed32(6, crc.masked(np.ascontiguousarray(array)))


def header(shards):
    return field(1, shards) + field(3, field(1, 1))


def write(prefix, arrays, *, shards=1, compress=None, per_block=40):
    """A checkpoint of these arrays, dealt out to the shards in turn; returns its prefix."""
    prefix = Path(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    items, offsets = [(b"", header(shards))], [0] * shards
    files = [open(f"{prefix}.data-{i:05d}-of-{shards:05d}", "wb") for i in range(shards)]  # noqa: SIM115
    for i, name in enumerate(sorted(arrays)):
        array, shard = arrays[name], i % shards
        items.append((name.encode(), entry(array, shard, offsets[shard])))
        array.tofile(files[shard])
        offsets[shard] += array.nbytes
    for file in files:
        file.close()
    blocks = [block(items[i : i + per_block]) for i in range(0, len(items), per_block)]
    Path(f"{prefix}.index").write_bytes(table(blocks, compress))
    return prefix


def variables(*, layers=30, width=512, skip_width=256, ae_width=128, embedding_dims=16, seed=0):
    """Magenta's WaveNet: the variables of its published configuration, with random weights."""
    generator = np.random.default_rng(seed)
    convs = {
        "ae_startconv": (3, 1, ae_width),
        "ae_bottleneck": (1, ae_width, embedding_dims),
        "startconv": (3, 1, width),
        "skip_start": (1, width, skip_width),
        "out1": (1, skip_width, skip_width),
        "cond_map_out1": (1, embedding_dims, skip_width),
        "logits": (1, skip_width, 256),
    }
    for n in range(1, layers + 1):
        convs[f"ae_dilatedconv_{n}"] = (3, ae_width, ae_width)
        convs[f"ae_res_{n}"] = (1, ae_width, ae_width)
        convs[f"dilatedconv_{n}"] = (3, width, 2 * width)
        convs[f"cond_map_{n}"] = (1, embedding_dims, 2 * width)
        convs[f"res_{n}"] = (1, width, width)
        convs[f"skip_{n}"] = (1, width, skip_width)
    out = {}
    for name, shape in convs.items():
        scale = np.float32((shape[0] * shape[1]) ** -0.5)
        out[f"{name}/W"] = (generator.standard_normal((1, *shape), np.float32) * scale).astype(np.float32)
        out[f"{name}/biases"] = generator.standard_normal(shape[-1], np.float32) * np.float32(0.1)
    return out


def training(weights, step=1234):
    """The same as a training run saves it: with moving averages, Adam's slots and counters."""
    out = dict(weights)
    for name, array in weights.items():
        out |= {f"{name}/Adam": array, f"{name}/Adam_1": array}
        out[f"{name}/ExponentialMovingAverage"] = array * np.float32(0.9)
    scalars = {"beta1_power": np.float32(0.5), "beta2_power": np.float32(0.9), "global_step": np.int32(step)}
    return out | {name: np.asarray(value) for name, value in scalars.items()}
