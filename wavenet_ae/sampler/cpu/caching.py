"""Compiled code, kept on disk for as long as none of the files it is made of changes."""

import functools
import logging
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numba.core.dispatcher import Dispatcher

log = logging.getLogger(__name__)


def checksum(paths: Iterable[Path]) -> int:
    """A number that changes with any of the files.

    numba looks at the date of one file and at what a function closes over: let it close over this.
    """
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))


def keep(function: Any) -> Any:
    """Have what numba compiles of a function kept on disk, or say why it cannot be."""
    if isinstance(function, Dispatcher):  # it is not where NUMBA_DISABLE_JIT says so
        try:
            function.enable_caching()
        except RuntimeError as error:  # neither beside its file nor under the user's home
            _warn(type(error).__name__)
    return function


@functools.cache
def _warn(why: str) -> None:
    """Once, not for each function."""
    log.warning("there is no place to keep compiled code (%s), every process compiles it: set NUMBA_CACHE_DIR", why)
