"""XMP, IPTC and comments: what a file says of its picture beside EXIF and the colour profile."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .jpeg import JpegContents
from .png import Chunk, PngContents

MOST_BYTES = 4 << 20
"""Of one block; what is larger is left out."""
XMP_TAG, IPTC_TAG = 700, 33723

# What was true of the old file: its size, orientation and thumbnail, a gain map, video or depth map behind the picture.
_STALE_NAMES = (
    rb"tiff:(?:Orientation|ImageWidth|ImageLength)|exif:(?:PixelXDimension|PixelYDimension)|"
    rb"hdrgm:\w{1,64}|xmpNote:HasExtendedXMP|GCamera:(?:MotionPhoto|MicroVideo)\w{0,64}"
)
_STALE_ATTRIBUTE = re.compile(rb"\s(?:" + _STALE_NAMES + rb")=(?:\"[^\"]*\"|'[^']*')")
_STALE_ELEMENT = re.compile(rb"<(" + _STALE_NAMES + rb")>[^<]*</\1>")
_STALE_TREES = (b"xmp:Thumbnails", b"Container:Directory", b"GContainer:Directory", b"hdrgm:GainMap")


@dataclass(frozen=True)
class Metadata:
    """Metadata of a picture besides EXIF and the colour profile."""

    xmp: bytes | None = None
    """XMP packet, without what is untrue of a picture of another size and upright."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    comments: tuple[bytes, ...] = ()
    """Comments of a JPEG or GIF, in no known encoding."""
    texts: tuple[Chunk, ...] = ()
    """Text chunks of a PNG, as they are in the file."""
    left_out: tuple[str, ...] = ()
    """Names of metadata that was too large or damaged."""


def of_image(image: Image.Image) -> Metadata:
    """The metadata of an opened file of another format than those below."""
    comment = image.info.get("comment") if image.format == "GIF" else None
    return Metadata(current(image.info.get("xmp")), None, (comment,) if comment and isinstance(comment, bytes) else ())


def of_jpeg(contents: JpegContents) -> Metadata:
    """The metadata of a JPEG."""
    return Metadata(current(contents.xmp), contents.iptc, contents.comments)


def of_png(contents: PngContents) -> Metadata:
    """The metadata of a PNG."""
    return Metadata(current(contents.xmp), None, (), contents.texts, contents.left_out)


def of_tags(tags: Image.Exif) -> Metadata:
    """The metadata of a TIFF with these tags."""
    iptc = tags.get(IPTC_TAG)
    if isinstance(iptc, tuple) and all(isinstance(word, int) and 0 <= word < 1 << 32 for word in iptc):
        iptc = struct.pack(f"{tags.endian}{len(iptc)}L", *iptc)  # LONG, which many writers take for bytes
    usable = isinstance(iptc, bytes) and iptc[:1] == b"\x1c" and len(iptc) <= MOST_BYTES
    return Metadata(current(tags.get(XMP_TAG)), iptc if usable else None)


def current(xmp: Any) -> bytes | None:
    """XMP without what is untrue of a picture of another size and upright; None if it is none, or too large."""
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if not isinstance(xmp, bytes) or not xmp.strip(b"\0 \r\n\t") or len(xmp) > MOST_BYTES:
        return None
    found = _STALE_ELEMENT.sub(b"", _STALE_ATTRIBUTE.sub(b"", xmp))
    for name in _STALE_TREES:
        found = _without(found, name)
    return found


def as_utf8(comment: bytes) -> bytes:
    """A comment, which nothing says the encoding of, in UTF-8 without NUL."""
    try:
        text = comment.decode()
    except UnicodeDecodeError:
        text = comment.decode("latin-1")
    return text.rstrip("\0").replace("\0", " ").encode()


def _without(xmp: bytes, name: bytes) -> bytes:
    """XMP without the elements of this name; those inside one another are no XMP."""
    kept, place = b"", 0
    for start in re.finditer(rb"<" + name + rb"[\s>]", xmp):
        if start.start() < place:
            continue
        end = xmp.find(b"</" + name + b">", start.end())
        if end < 0:
            break
        kept += xmp[place : start.start()]
        place = end + len(name) + 3
    return kept + xmp[place:]
