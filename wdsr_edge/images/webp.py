"""WebP: whether a file is lossless, and the tint that its lossy form gives to grey."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_MOST_CHUNKS = 1000


def is_lossless(file: BinaryIO) -> bool:
    """True if a WebP file holds a lossless picture. Reads from its start."""
    place = 12
    for _ in range(_MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[:4] in (b"VP8 ", b"ANMF"):
            return False
        if head[:4] == b"VP8L":
            return True
        (size,) = struct.unpack_from("<L", head, 4)
        place += 8 + size + size % 2
    return False


def without_tint(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels of a lossy WebP in which grey is grey again: decoders give it a green that may be one level off.

    Where any visible pixel has another colour, they are left as they are.
    """
    red, green, blue = np.moveaxis(pixels[..., :3], 2, 0)
    seen = pixels[..., 3] > 0 if pixels.shape[2] == 4 else np.ones_like(red, bool)
    for rows in range(0, len(pixels), 64):
        one = slice(rows, rows + 64)
        r, g, b = (channel[one][seen[one]].astype(np.int16) for channel in (red, green, blue))
        if (r != b).any() or (np.abs(r - g) > 1).any():
            return pixels
    green[...] = np.where(seen, red, green)
    return pixels
