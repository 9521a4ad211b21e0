"""The segments of a JPEG file beside its pixels: profile, EXIF, XMP, IPTC and comments, read and made."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from .file_parts import FileParts

MOST_IN_SEGMENT = 65533
"""Bytes."""

_COM, _APP0, _APP1, _APP2, _APP13, _APP14, _APP15 = 0xFE, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xEF
_END_OF_SEGMENTS = (0x00, 0xD9, 0xDA)
_ALONE = (0x01, *range(0xD0, 0xD9))
_EXIF, _XMP, _ICC, _IPTC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0"
_NEEDED = ((_APP0, b"JFIF\0", 14), (_APP14, b"Adobe", 12))
_IPTC_RESOURCE = 0x0404
_MOST_COMMENTS = 16
_MOST_FILL = 10_000


@dataclass(frozen=True)
class JpegContents:
    """Metadata of a JPEG file."""

    pixels: BinaryIO
    """The file with nothing but what a decoder needs for the pixels and their resolution."""
    icc: bytes | None = None
    """Colour profile, if all of its parts are there."""
    exif: bytes | None = None
    """EXIF block, with "Exif\\0\\0" in front."""
    xmp: bytes | None = None
    """XMP packet, the first 64 KiB of it."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    comments: tuple[bytes, ...] = ()
    """The first 16 comments."""


def read_segments(file: BinaryIO) -> JpegContents:
    """Go through a seekable JPEG file up to its pixels. Damaged segments that a decoder can do without are left out."""
    end = file.seek(0, 2)
    parts, place = FileParts(file, 2), 2
    icc: dict[int, bytes] = {}
    count, exif, resources, comments = 0, b"", b"", list[bytes]()
    xmp = None
    for marker, start, stop in _walk(file, end):
        place = stop
        if not (_APP0 <= marker <= _APP15 or marker == _COM):
            parts.keep(start, stop)
            continue
        file.seek(start + 4)
        data = file.read(stop - start - 4)
        if any(marker == one and data.startswith(head) and len(data) >= least for one, head, least in _NEEDED):
            parts.keep(start, stop)
        elif marker == _APP1 and data.startswith(_EXIF):
            exif += data[len(_EXIF) :]
        elif marker == _APP1 and data.startswith(_XMP):
            xmp = xmp or data[len(_XMP) :]
        elif marker == _APP2 and data.startswith(_ICC) and len(data) > len(_ICC) + 2:
            count = count or data[len(_ICC) + 1]
            icc.setdefault(data[len(_ICC)], data[len(_ICC) + 2 :])
        elif marker == _APP13 and data.startswith(_IPTC):
            resources += data[len(_IPTC) :]
        elif marker == _COM and data and len(comments) < _MOST_COMMENTS:
            comments.append(data)
    parts.keep(place, end)
    whole = b"".join(icc[number] for number in sorted(icc)) if sorted(icc) == [*range(1, count + 1)] else b""
    block = _EXIF + exif if exif else None
    return JpegContents(parts.as_file(), whole or None, block, xmp, _iptc(resources), tuple(comments))


def make_segments(xmp: bytes | None, iptc: bytes | None, comments: Iterable[bytes]) -> tuple[bytes, list[str]]:
    """Segments to put into a JPEG, and in words what does not fit one."""
    segments, lost = b"", []
    for name, marker, block in (
        ("XMP", _APP1, xmp and _XMP + xmp),
        ("IPTC", _APP13, iptc and _IPTC + _resource(iptc)),
        *(("comment", _COM, comment) for comment in comments),
    ):
        if block and len(block) > MOST_IN_SEGMENT:
            lost.append(f"{name} of more than 64 KiB")
        elif block:
            segments += struct.pack(">BBH", 0xFF, marker, len(block) + 2) + block
    return segments, lost


def _walk(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Marker, start and stop of each segment before the first scan, or before anything that is not a segment."""
    start, fill = 2, 0
    while True:
        file.seek(start)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return
        marker = head[1]
        if marker == 0xFF:  # a fill byte; nobody writes thousands
            start, fill = start + 1, fill + 1
            if fill > _MOST_FILL:
                return
        elif marker in _ALONE:
            yield marker, start, start + 2
            start += 2
        else:
            stop = start + 2 + int.from_bytes(head[2:], "big")
            if marker in _END_OF_SEGMENTS or not start + 4 <= stop <= end:
                return
            yield marker, start, stop
            start = stop


def _iptc(resources: bytes) -> bytes | None:
    """IPTC records among Photoshop's image resources."""
    place = 0
    while resources[place : place + 4] == b"8BIM" and place + 12 <= len(resources):
        (number,) = struct.unpack_from(">H", resources, place + 4)
        place += 6 + (resources[place + 6] // 2 + 1) * 2  # a name, padded to an even length with its own
        if place + 4 > len(resources):
            return None
        (size,) = struct.unpack_from(">L", resources, place)
        if number == _IPTC_RESOURCE:
            data = resources[place + 4 : place + 4 + size]
            return data if data[:1] == b"\x1c" and len(data) == size else None
        place += 4 + size + size % 2
    return None


def _resource(iptc: bytes) -> bytes:
    """IPTC records as an image resource of Photoshop's."""
    return struct.pack(">4sHHL", b"8BIM", _IPTC_RESOURCE, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
