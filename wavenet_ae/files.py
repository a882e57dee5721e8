"""Files in and out: inputs gathered before work starts, outputs written whole or not at all."""

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else delete it.

    Whatever stood at `path` stays until the new file is complete and on disk, so a crash, a full
    disk or an interrupt never costs a file. The temporary name keeps the suffix: writers that pick
    a format by it work.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; the message names `path`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.chmod(0o666 & ~_umask())  # safetensors would let nobody else read what it writes
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"cannot write {path}: {reason}; nothing was changed there") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def gather(
    inputs: str | Path | Sequence[str | Path], suffixes: Iterable[str], *, out: str | Path | None = None
) -> tuple[list[Path], list[Path]]:
    """The files named by one path, several, or folders: (taken, left), each sorted within its folder.

    A file named outright is taken whatever its suffix. In a folder, read recursively, files whose suffix
    (in any case) is among `suffixes` are taken; the rest are left, hidden files without mention, and so is
    what stands in `out`, a folder for results below it: results are no input of the next run.

    Raises:
        FileNotFoundError: a path does not exist, or nothing was taken at all.
    """
    wanted = {suffix.lower() for suffix in suffixes}
    taken: list[Path] = []
    left: list[Path] = []
    results = None if out is None else Path(out).resolve()
    paths = [Path(inputs)] if isinstance(inputs, str | Path) else [Path(path) for path in inputs]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: expected a file or a folder")
        if path.is_dir():
            visible = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
            if results and path.resolve() in results.parents:
                visible = [p for p in visible if results not in p.resolve().parents]
            taken += [p for p in visible if p.suffix.lower() in wanted]
            left += [p for p in visible if p.suffix.lower() not in wanted]
        else:
            taken.append(path)
    if not taken:
        found = f"{len(left)} other files" if left else "nothing"
        raise FileNotFoundError(
            f"no input in {', '.join(map(str, paths)) or 'an empty list'}: found {found}, "
            f"expected files ending in {' '.join(sorted(wanted))}"
        )
    return list(dict.fromkeys(taken)), left


def outputs(inputs: Sequence[Path], folder: str | Path, suffix: str, *, roots: Sequence[Path] = ()) -> dict[Path, Path]:
    """Where each input's result goes: `folder`/<the input's name without its suffix><suffix>.

    What lies below one of the folders `roots` keeps its subfolders: violin/C4.wav and viola/C4.wav stay two.

    Raises:
        ValueError: two inputs would be written to one file, or an input would be overwritten.
        OSError: the folder cannot be made or written to.
    """
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file: expected a folder for the results, or none yet (out=...)")
    if not os.access(there, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(f"{there} cannot be written to: check its permissions, or give another folder by out=")
    taken: dict[Path, Path] = {}
    for path in inputs:
        root = next((root for root in roots if root in path.parents), path.parent)
        place = Path(folder) / path.parent.relative_to(root) / f"{path.stem}{suffix}"
        if place in taken or place.resolve() == path.resolve():
            other = taken.get(place)
            clash = f"{other} and {path} would both become" if other else f"{path} would be overwritten by"
            raise ValueError(f"{clash} {place}: rename one, or give another folder by out=")
        taken[place] = path
    return {path: place for place, path in taken.items()}


def unused(folder: str | Path) -> str:
    """The folder, or else the first of <folder>-2, <folder>-3, ... that nobody has; it is made, so that nobody will."""
    for mark in ("", *(f"-{number}" for number in range(2, 10_000))):
        with contextlib.suppress(FileExistsError):
            Path(f"{folder}{mark}").mkdir(parents=True)
            return f"{folder}{mark}"
    raise OSError(f"{folder} and thousands after it are taken: give another name")


def _umask() -> int:
    """The permissions that new files do not get; the system tells only when they are set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
