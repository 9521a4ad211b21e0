"""XMP, IPTC and comments: what a file says of its picture beside EXIF and the colour profile."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .png import Chunk, PngContents, text_of

MOST_BYTES = 4 << 20
"""Of one block; what is larger is left out."""
XMP_TAG, IPTC_TAG = 700, 33723

_IPTC_RESOURCE = 0x0404
_XMP_HEAD, _IPTC_HEAD = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_MOST_IN_SEGMENT = 65533
_MOST_COMMENTS = 16
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
    """What a file says of its picture beside EXIF and the colour profile."""

    xmp: bytes | None = None
    """XMP packet, without what is untrue of a picture of another size and upright."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    comments: tuple[bytes, ...] = ()
    """Comments of a JPEG or GIF, in no known encoding."""
    texts: tuple[Chunk, ...] = ()
    """Text chunks of a PNG, as they are in the file."""
    left_out: tuple[str, ...] = ()
    """What the file had and was too large or damaged, in words."""


def read_metadata(image: Image.Image, tags: Image.Exif | None) -> Metadata:
    """The metadata of an opened file that is no PNG; ``tags`` are a TIFF's."""
    if tags is not None:
        return of_tags(tags)
    xmp, resources, comments = image.info.get("xmp"), b"", []
    for name, data in getattr(image, "applist", ()):  # a JPEG's
        if name == "APP1" and data.startswith(_XMP_HEAD):
            xmp = data[len(_XMP_HEAD) :]
        elif name == "APP13" and data.startswith(_IPTC_HEAD):
            resources += data[len(_IPTC_HEAD) :]
        elif name == "COM":
            comments.append(data)
    if image.format == "GIF" and isinstance(image.info.get("comment"), bytes):
        comments.append(image.info["comment"])
    comments = [comment for comment in comments if 0 < len(comment) <= _MOST_IN_SEGMENT][:_MOST_COMMENTS]
    return Metadata(current(xmp), _iptc(resources), tuple(comments))


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


def jpeg_segments(metadata: Metadata) -> tuple[bytes, Sequence[str]]:
    """Segments to put into a JPEG, and in words what does not fit one."""
    segments, lost, comments = b"", [], [*metadata.comments]
    for chunk in filter(is_comment, metadata.texts):
        comments.append((text_of(chunk) or (b"", b""))[1])
    for name, marker, block in (
        ("XMP", b"\xff\xe1", metadata.xmp and _XMP_HEAD + metadata.xmp),
        ("IPTC", b"\xff\xed", metadata.iptc and _IPTC_HEAD + _resource(metadata.iptc)),
        *(("comment", b"\xff\xfe", comment) for comment in comments),
    ):
        if block and len(block) > _MOST_IN_SEGMENT:
            lost.append(f"{name} of more than 64 KiB")
        elif block:
            segments += marker + struct.pack(">H", len(block) + 2) + block
    return segments, lost


def is_comment(chunk: Chunk) -> bool:
    """Whether a PNG's text is its comment, which a JPEG holds as well."""
    return chunk[1].startswith(b"Comment\0")


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
