"""Which image formats are read and written: told by a suffix, or by the first bytes of a file."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from .._errors import InputError, MissingExtraError, require

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".jfi": "JPEG",
    ".webp": "WebP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
"""Suffix (in lower case) to format, of the formats that are written."""
SUFFIXES = frozenset(FORMATS)
READ_ONLY = {".apng": "PNG", ".gif": "GIF", ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC"}
"""The same of what is read only."""
READ_SUFFIXES = SUFFIXES | frozenset(READ_ONLY)
"""Suffixes of image files that a folder is searched for."""
HEAD = 64
"""Number of a file's first bytes that ``format_of`` wants to see."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    *((0, magic, "TIFF") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
)
_BRANDS = {"AVIF": (b"avif", b"avis"), "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1")}
_SUFFIX_OF = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "AVIF": ".avif"}
_PLUGINS = {
    "PNG": "PngImagePlugin.PngImageFile",
    "JPEG": "JpegImagePlugin.JpegImageFile",
    "WebP": "WebPImagePlugin.WebPImageFile",
    "BMP": "BmpImagePlugin.BmpImageFile",
    "TIFF": "TiffImagePlugin.TiffImageFile",
    "GIF": "GifImagePlugin.GifImageFile",
    "AVIF": "AvifImagePlugin.AvifImageFile",
}


def format_of(head: bytes) -> str | None:
    """The format of a file that begins with ``head`` (``HEAD`` bytes, or the whole file), if it is one that is read."""
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
        return next((kind for kind, own in _BRANDS.items() if any(brand in own for brand in brands)), None)
    return next((kind for start, magic, kind in _MAGIC if head.startswith(magic, start)), None)


def format_of_file(path: Path) -> str | None:
    """The format of a regular file by its content; None if it is another, or cannot be read."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            return format_of(file.read(HEAD))
    except (OSError, ValueError):
        return None


def suffix_for(path: Path) -> str:
    """The suffix that what is made of image file ``path`` gets: its own, or where that cannot be written, another.

    A file without a suffix of an image gets that of its content. GIF and HEIC are written as PNG.
    """
    if path.suffix.lower() in SUFFIXES:
        return path.suffix
    return _SUFFIX_OF.get(format_of_file(path) or "", ".png")


def decoder(kind: str, path: Path) -> type[ImageFile]:
    """Pillow's plugin for ``kind``; MissingExtraError says that ``path`` needs a package, and which.

    The plugins themselves, not ``Image.open``: it warns by a global pixel limit, and takes a phone's HDR JPEG for two
    pages.
    """
    if kind == "HEIC":
        try:
            plugin: type[ImageFile] = require("pillow_heif", "heif").HeifImageFile
        except MissingExtraError as error:
            raise MissingExtraError(f"{path}: HEIC needs pillow-heif; {error}") from error
        return plugin
    check_codec(kind, path)
    module, _, name = _PLUGINS[kind].partition(".")
    found: type[ImageFile] = getattr(importlib.import_module(f"PIL.{module}"), name)
    return found


def check_codec(kind: str, path: Path) -> None:
    """Raise InputError if this Pillow cannot read and write ``kind``."""
    if kind == "AVIF" and not has_avif():
        raise InputError(f"{path}: AVIF needs Pillow 11.3 or newer, with its AVIF codec: pip install -U pillow")


def has_avif() -> bool:
    """True if this Pillow reads and writes AVIF."""
    try:
        from PIL.AvifImagePlugin import SUPPORTED
    except ImportError:
        return False
    return bool(SUPPORTED)


def what_to_install(suffix: str) -> str:
    """Package to install to read images of this suffix; empty if nothing is missing."""
    kind = READ_ONLY.get(suffix.lower()) or FORMATS.get(suffix.lower())
    if kind == "HEIC" and importlib.util.find_spec("pillow_heif") is None:
        return "pip install 'wdsr-edge[heif]'"
    if kind == "AVIF" and not has_avif():
        return "pip install -U pillow"
    return ""
