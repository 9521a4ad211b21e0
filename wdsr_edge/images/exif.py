"""EXIF and resolution, for formats that Pillow and vips write without them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

_EXIF_IFD, _GPS_IFD, _INTEROP_IFD = 0x8769, 0x8825, 0xA005
# ImageDescription, Make, Model, Software, DateTime, Artist, HostComputer, Copyright, two ratings, Windows' five.
_EXIF_KEPT = (270, 271, 272, 305, 306, 315, 316, 33432, 18246, 18249, 40091, 40092, 40093, 40094, 40095)
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 274, 282, 283, 296
_PIXEL_SIZE = (0xA002, 0xA003)


def usable_dpi(dpi: Any, unit: float = 1.0) -> tuple[float, float] | None:
    """Two numbers that every format can hold, or None."""
    try:
        x, y = (float(value) * unit for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x <= 65535 and 1 < y <= 65535 else None  # 1 is TIFF's way to say nothing


def kept_exif(exif: Image.Exif) -> bytes | None:
    """EXIF that describes the photo and not its file; None if there is none or it is damaged."""
    with suppress(Exception):
        kept = Image.Exif()
        kept.endian = "<"
        for tag in _EXIF_KEPT:
            if tag in exif:
                kept[tag] = exif[tag]
        for tag in (_EXIF_IFD, _GPS_IFD):
            fields = {key: value for key, value in exif.get_ifd(tag).items() if key not in _PIXEL_SIZE}
            if _INTEROP_IFD in fields:
                fields[_INTEROP_IFD] = exif.get_ifd(_INTEROP_IFD)
            if fields:
                kept[tag] = fields
        return kept.tobytes() if kept else None
    return None


def append_exif(path: Path, exif: bytes, more: Mapping[int, bytes]) -> None:
    """Give a TIFF the tags of ``exif``, and ``more``, which neither vips nor Pillow writes.

    They become, with its own, a new first directory at its end.
    Nothing is done to a big-endian TIFF, which they write on a big-endian machine only.
    """
    tags = Image.Exif()
    tags.load(exif)
    tags.endian = "<"
    for tag, value in more.items():
        tags[tag] = value
    if not tags:
        return
    with open(path, "r+b") as file:
        head = file.read(8)
        if head[:4] != b"II*\0":
            return
        file.seek(struct.unpack("<L", head[4:])[0])
        own = _entries(file.read(2 + 12 * 0xFFFF))
        end = file.seek(0, 2)
        file.write(bytes(end % 2))
        end += end % 2
        block = tags.tobytes(end)[14:]  # after "Exif\0\0" and the header; its offsets count from the file's start
        file.write(block + bytes(len(block) % 2))
        end += len(block) + len(block) % 2
        merged = sorted({**_entries(block), **own}.items())
        file.write(struct.pack("<H", len(merged)) + b"".join(entry for _, entry in merged) + bytes(4))
        file.seek(4)
        file.write(struct.pack("<L", end))


def _entries(directory: bytes) -> dict[int, bytes]:
    """Tag to its 12 bytes, of a little-endian TIFF directory."""
    (count,) = struct.unpack_from("<H", directory)
    entries = [directory[start : start + 12] for start in range(2, 2 + 12 * count, 12)]
    return {struct.unpack_from("<H", entry)[0]: entry for entry in entries}
