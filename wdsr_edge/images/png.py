"""The chunks of a PNG file beside its pixels: colour, profile, EXIF, XMP and text; bounded, whatever a file claims."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .file_parts import FileParts

Chunk = tuple[bytes, bytes]
"""Name and data."""

COLOUR = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Chunks that say what the pixels' numbers mean, and their lengths."""
TEXT = (b"tEXt", b"zTXt", b"iTXt")
MOST_BYTES = 4 << 20
"""Of a profile, an EXIF block or XMP, decompressed."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"tRNS", b"pHYs", b"acTL", b"fcTL", b"fdAT")
_XMP, _RAW_EXIF, _RAW_XMP = b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type xmp"
_STALE = (_RAW_EXIF, _RAW_XMP, b"Raw profile type APP1", b"Raw profile type icc", b"Raw profile type icm")
_MOST_TEXT, _MOST_TEXTS, _MOST_OF_ALL_TEXT = 1 << 20, 1000, 8 << 20  # other readers take no more of a text either
_TO_END_OF_HEADER = 8 + 25


@dataclass(frozen=True)
class PngContents:
    """Metadata of a PNG file."""

    pixels: BinaryIO
    """The file with nothing but what a decoder needs for the pixels and their resolution."""
    colour: tuple[Chunk, ...] = ()
    """Valid chunks of ``COLOUR``, at most one of each."""
    texts: tuple[Chunk, ...] = ()
    """Chunks of ``TEXT`` as they are in the file, but for EXIF, XMP and profiles."""
    icc: bytes | None = None
    """Colour profile."""
    exif: bytes | None = None
    """EXIF block, with "Exif\\0\\0" in front."""
    xmp: bytes | None = None
    """XMP packet."""
    left_out: tuple[str, ...] = ()
    """Names of chunks that were too large to keep."""


def read_chunks(file: BinaryIO) -> PngContents:
    """Go through a seekable PNG file. Damaged chunks that a decoder can do without are passed over."""
    size = file.seek(0, 2)
    parts = FileParts(file, len(_SIGNATURE))
    found: dict[bytes, bytes] = {}
    texts: list[Chunk] = []
    left_out: dict[str, None] = {}
    for name, start, length in _walk(file, size):
        stop = start + length + 12
        if name[:1].isupper() or name in _PIXELS or not name.isalpha():  # the last for the decoder to refuse
            if name != b"pHYs" or (length == 9 and _data(file, name, start, length) is not None):
                parts.keep(start, min(stop, size))
            found.setdefault(name, b"")
        elif name in TEXT:
            _add_text(texts, found, left_out, name, _data(file, name, start, length))
            if length > MOST_BYTES:
                left_out["a text of more than 1 MiB"] = None
        elif name in (b"iCCP", b"eXIf", *COLOUR) and name not in found:
            data = _data(file, name, start, length)
            if (
                data is not None
                and COLOUR.get(name, len(data)) == len(data)
                and (name == b"eXIf" or b"IDAT" not in found)
            ):
                found[name] = data
    exif = found.get(b"eXIf") or found.get(_RAW_EXIF)
    icc = _profile(found[b"iCCP"]) if b"iCCP" in found else None
    if b"iCCP" in found and icc is None:
        left_out["a damaged or huge colour profile"] = None
    return PngContents(
        parts.as_file(),
        tuple((name, found[name]) for name in COLOUR if name in found),
        tuple(texts),
        icc,
        exif if exif is None or exif.startswith(b"Exif\0\0") else b"Exif\0\0" + exif,
        found.get(_XMP) or found.get(_RAW_XMP),
        tuple(left_out),
    )


def insert_chunks(path: Path, chunks: Sequence[Chunk]) -> None:
    """Put ``chunks`` right behind the header of PNG file ``path``, which is where any of ours may stand."""
    if not chunks:
        return
    fresh = path.with_name(".chunks")  # not of its own name, which may be as long as names can be
    with open(path, "rb") as old, open(fresh, "wb") as new:
        new.write(old.read(_TO_END_OF_HEADER))
        for name, data in chunks:
            new.write(struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data)))
        shutil.copyfileobj(old, new, 1 << 20)
    fresh.replace(path)


def text_chunk(keyword: bytes, text: bytes) -> Chunk:
    """A text chunk of ``text``, UTF-8."""
    return b"iTXt", keyword + b"\0\0\0\0\0" + text


def xmp_chunk(xmp: bytes) -> Chunk:
    """The text chunk that holds XMP."""
    return text_chunk(_XMP, xmp)


def is_comment(chunk: Chunk) -> bool:
    """True if a text is a comment, which a JPEG holds as well."""
    return chunk[1].startswith(b"Comment\0")


def text_of(chunk: Chunk) -> tuple[bytes, bytes] | None:
    """Keyword and decompressed text of a chunk of ``TEXT``; None if it is damaged or decompresses beyond bounds."""
    name, data = chunk
    keyword, _, rest = data.partition(b"\0")
    if not 1 <= len(keyword) <= 79:
        return None
    if name == b"tEXt":
        return keyword, rest
    most = MOST_BYTES if keyword == _XMP or keyword in _STALE else _MOST_TEXT
    if name == b"zTXt":
        text = _inflated(rest[1:], most) if rest[:1] == b"\0" else None
    else:
        compressed, packed = rest[:1], rest[2:].split(b"\0", 2)[2:]  # behind a language and a translated keyword
        if compressed not in (b"\0", b"\1") or not packed:
            return None
        text = packed[0] if compressed == b"\0" else _inflated(packed[0], most)
    return None if text is None else (keyword, text)


def _walk(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of the data of each chunk."""
    start = len(_SIGNATURE)
    while start + 8 <= size:
        file.seek(start)
        length, name = struct.unpack(">L4s", file.read(8))
        yield name, start, length
        if name == b"IEND":
            return
        start += length + 12


def _data(file: BinaryIO, name: bytes, start: int, length: int) -> bytes | None:
    """The data of a chunk; None if it is too long, cut off or damaged."""
    if length > MOST_BYTES:
        return None
    file.seek(start + 8)
    data, check = file.read(length), file.read(4)
    return data if check == struct.pack(">L", zlib.crc32(name + data)) else None


def _add_text(
    texts: list[Chunk], found: dict[bytes, bytes], left_out: dict[str, None], name: bytes, data: bytes | None
) -> None:
    """Sort a text chunk into ``texts``, or into ``found`` if it holds EXIF or XMP."""
    if data is None:
        return
    keyword = data.partition(b"\0")[0]
    meant = keyword == _XMP or keyword in _STALE
    taken = sum(len(old) for _, old in texts) if texts else 0
    if not meant and (len(data) > _MOST_TEXT or len(texts) >= _MOST_TEXTS or taken + len(data) > _MOST_OF_ALL_TEXT):
        left_out["a text of more than 1 MiB" if len(data) > _MOST_TEXT else "texts beyond 8 MiB or the 1000th"] = None
        return
    pair = text_of((name, data))
    if pair is None:
        left_out["a text that is damaged or huge"] = None
    elif keyword == _XMP:
        found.setdefault(_XMP, pair[1])
    elif keyword in (_RAW_EXIF, _RAW_XMP):
        with suppress(ValueError):  # a name, a length, then the bytes in hexadecimal
            found.setdefault(keyword, bytes.fromhex(b"".join(pair[1].split(b"\n")[3:]).decode("ascii")))
    elif keyword not in _STALE:
        texts.append((name, data))


def _profile(data: bytes) -> bytes | None:
    """The profile in an iCCP chunk."""
    rest = data.partition(b"\0")[2]
    return _inflated(rest[1:], MOST_BYTES) or None


def _inflated(data: bytes, most: int) -> bytes | None:
    """Decompressed; None if that is damaged or more than ``most`` bytes."""
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, most + 1)
    except zlib.error:
        return None
    return text if inflate.eof and len(text) <= most else None
