"""Where the files of a TensorFlow checkpoint lie: given by prefix, by one of its files, by folder or in a .tar."""

import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wavenet_ae.magenta import table

_PART = re.compile(r"(?P<prefix>.+)\.(?P<end>index|meta|data-\d{5}-of-\d{5})")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"PK\3\4")  # gzip, bzip2, xz, zip
_LATEST = re.compile(rb'^model_checkpoint_path: "(.+)"', re.MULTILINE)  # in the file called `checkpoint`


class Extent(NamedTuple):
    """A stretch of a file on disk: all of it, or a member of an archive."""

    path: Path
    offset: int
    size: int

    def read(self, limit: int | None = None) -> bytes:
        """Its first bytes, all of them without a limit."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size if limit is None else min(limit, self.size))

    def view(self, offset: int, size: int) -> np.ndarray:
        """Some of its bytes, mapped rather than read."""
        if not size:
            return np.empty(0, np.uint8)
        return np.asarray(np.memmap(self.path, np.uint8, "r", self.offset + offset, (size,)))


class Place(NamedTuple):
    """A checkpoint: its name as people write it, and its files by their ends (`index`, `data-00000-of-00001`)."""

    name: str
    parts: dict[str, Extent]


def find(path: str | Path) -> Place:
    """The checkpoint at `path`.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: what is there is not one checkpoint in TensorFlow's V2 format.
    """
    path = Path(path)
    if path.is_dir():
        return _only(str(path), _folder(path))
    if path.is_file() and _PART.fullmatch(path.name) is None and not _sibling(path).is_file():
        return _only(str(path), _archive(path))
    part = _PART.fullmatch(path.name)
    prefix = path.with_name(part["prefix"]) if part and path.is_file() else path
    if not _sibling(prefix).is_file():
        raise FileNotFoundError(_nothing(path, prefix))
    return _place(str(prefix), prefix.name, _folder(prefix.parent))


def _sibling(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _folder(folder: Path) -> dict[str, Extent]:
    return {p.name: Extent(p, 0, p.stat().st_size) for p in sorted(folder.iterdir()) if p.is_file()}


def _archive(path: Path) -> dict[str, Extent]:
    """The members of a plain .tar, in place: their bytes lie in it as they are."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = [m for m in archive.getmembers() if m.isreg() and not m.issparse()]
    except (tarfile.TarError, ValueError, OverflowError):
        raise ValueError(_not_a_checkpoint(path)) from None
    total = path.stat().st_size
    if any(m.size < 0 or m.offset_data + m.size > total for m in members):
        raise ValueError(f"{path} is damaged or cut short: copy or download it again")
    visible = [m for m in members if not Path(m.name).name.startswith(".")]
    return {m.name: Extent(path, m.offset_data, m.size) for m in visible}


def _only(where: str, names: Mapping[str, Extent]) -> Place:
    """The one checkpoint among the files, or the one their `checkpoint` file calls the latest."""
    parts = [part for part in map(_PART.fullmatch, names) if part]
    prefixes = [part["prefix"] for part in parts if part["end"] == "index"]
    if len(prefixes) > 1:
        latest = _latest(names)
        prefixes = [prefix for prefix in prefixes if Path(prefix).name == latest] or prefixes
    if not prefixes:
        raise FileNotFoundError(
            f"no TensorFlow checkpoint in {where}: found {_some(names)}, expected a file ending in .index"
        )
    if len(prefixes) > 1:
        raise ValueError(
            f"{where} holds several checkpoints: {_some(prefixes)}; give the path of one (a .tar: unpack it first)"
        )
    return _place(f"{where}/{prefixes[0]}", prefixes[0], names)


def _latest(names: Mapping[str, Extent]) -> str | None:
    """The checkpoint that TensorFlow's own note beside them, a file called `checkpoint`, names."""
    for name, extent in names.items():
        found = _LATEST.search(extent.read(1 << 16)) if Path(name).name == "checkpoint" else None
        if found:
            return Path(found[1].decode(errors="replace")).name
    return None


def _place(name: str, prefix: str, names: Mapping[str, Extent]) -> Place:
    parts = ((_PART.fullmatch(name), extent) for name, extent in names.items())
    return Place(name, {part["end"]: extent for part, extent in parts if part and part["prefix"] == prefix})


def _nothing(path: Path, prefix: Path) -> str:
    if path.is_file():
        return f"{path} has no {_sibling(prefix).name} beside it: a checkpoint is that and the .data files, of one name"
    indexes = [p.name.removesuffix(".index") for p in sorted(path.parent.glob("*.index"))]
    there = f"in {path.parent} there are {_some(indexes)}" if indexes else f"nor any other in {path.parent}"
    return f"no checkpoint {path} (looked for {_sibling(prefix).name}); {there}"


def _not_a_checkpoint(path: Path) -> str:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(512)
        file.seek(max(size - 16, 0))
        end = file.read(16)
    if table.is_table(end):
        return (
            f"{path} is a checkpoint in TensorFlow's old V1 format: expected V2 (.index and .data files); "
            "save it again with tf.train.Saver(write_version=tf.train.SaverDef.V2)"
        )
    if start[257:262] == b"ustar":
        return f"{path} is damaged or cut short: copy or download it again"
    if start.startswith(_COMPRESSED):
        return f"{path} is compressed: unpack it (tar -xf, or unzip) and give the folder"
    return (
        f"{path} is not a TensorFlow checkpoint: expected the path without its end (model.ckpt-200000), "
        "one of its files, their folder, or a .tar of them"
    )


def _some(names: Mapping[str, Extent] | list[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "") or "nothing"
