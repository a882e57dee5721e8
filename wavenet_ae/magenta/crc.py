"""CRC-32C, the checksum TensorFlow writes beside everything, at memory speed."""

from typing import no_type_check

import numba
import numpy as np

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_MASK = 0xA282EAD8


def masked(data: bytes | np.ndarray) -> int:
    """The checksum of the bytes as TensorFlow stores it: rotated and shifted, so that a CRC of CRCs is sound."""
    array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
    crc = int(_crc32c(array, _TABLES))
    return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def _tables() -> np.ndarray:
    """[k, byte]: what `byte` becomes after k more zero bytes."""
    tables = np.zeros((8, 256), np.uint32)
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, crc >> 1 ^ np.uint32(_POLYNOMIAL), crc >> 1)
    tables[0] = crc
    for k in range(1, 8):
        tables[k] = tables[k - 1] >> 8 ^ tables[0][tables[k - 1] & 0xFF]
    return tables


_TABLES = _tables()


# Speed: eight bytes a turn, over 1 GB/s on one core; byte by byte in plain Python some 6 MB/s, 40 s for the model.
@numba.njit(cache=True)
@no_type_check
def _crc32c(data, tables):
    crc = np.uint32(0xFFFFFFFF)
    whole = len(data) // 8 * 8
    for i in range(0, whole, 8):
        low = crc ^ (
            np.uint32(data[i])
            | np.uint32(data[i + 1]) << np.uint32(8)
            | np.uint32(data[i + 2]) << np.uint32(16)
            | np.uint32(data[i + 3]) << np.uint32(24)
        )
        crc = (
            tables[7, low & 0xFF]
            ^ tables[6, (low >> np.uint32(8)) & 0xFF]
            ^ tables[5, (low >> np.uint32(16)) & 0xFF]
            ^ tables[4, low >> np.uint32(24)]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
    for i in range(whole, len(data)):
        crc = crc >> np.uint32(8) ^ tables[0, (crc ^ data[i]) & np.uint32(0xFF)]
    return crc ^ np.uint32(0xFFFFFFFF)
