"""Compiled code, kept on disk for as long as none of the files it is made of changes."""

import logging
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def checksum(paths: Iterable[Path]) -> int:
    """A number that changes with any of the files: numba looks at one's date alone, but at all a function refers to."""
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))


def keep(function: Any) -> Any:
    """Have what numba compiles of a function kept on disk, or say why it cannot be."""
    try:
        function.enable_caching()
    except RuntimeError as error:  # neither beside its file nor under the user's home
        log.warning("code is compiled in every process (%s): set NUMBA_CACHE_DIR to a folder", error)
    return function
