"""PNG and TIFF files of 16-bit colour or alpha, which Pillow would read as 8 bits, through pyvips."""

from __future__ import annotations

import struct
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._errors import InputError, MissingExtraError, require


def require_pyvips(path: Path) -> ModuleType:
    """The pyvips module; MissingExtraError says that ``path`` needs it."""
    try:
        return require("pyvips", "image16")
    except MissingExtraError as error:
        raise MissingExtraError(f"{path}: 16 bits per channel need pyvips; {error}") from error
    except OSError as error:  # pyvips is there, the C library is not
        raise MissingExtraError(
            f"{path}: 16 bits per channel need libvips ({error}): pip install 'wdsr-edge[image16]'"
        ) from error


def tiff_tags(path: Path, file: BinaryIO, head: bytes) -> Image.Exif:
    """All tags of the first page of the TIFF whose first bytes are ``head``; Pillow's own reader fails on some.

    Raises InputError for samples that are not 1, 2, 4, 8 or 16 unsigned bits, LAB, and 16-bit CMYK.
    """
    tags = Image.Exif()
    tags.endian = "<" if head[:2] == b"II" else ">"
    tags.bigtiff = b"+" in head[2:4]
    start = struct.unpack_from(tags.endian + ("Q" if tags.bigtiff else "L"), head, 8 if tags.bigtiff else 4)[0]
    tags.load_from_fp(file, start)
    bits = _bits(tags)
    unsigned = tags.get(339, 1) in (1, (1,) * tags.get(277, 1))
    if bits not in (1, 2, 4, 8, 16) or not unsigned:
        kind = f"{bits}-bit" if unsigned else f"{bits}-bit signed or floating-point"
        raise InputError(f"{path}: {kind} TIFF is not supported: convert it to 8 or 16 unsigned bits")
    if tags.get(262) in (8, 9, 10) or (bits == 16 and tags.get(262) not in (0, 1, 2)):
        raise InputError(f"{path}: this TIFF is neither grey nor RGB (LAB or 16-bit CMYK): convert it to RGB")
    return tags


def needs_vips(tags: Image.Exif) -> bool:
    """True if the TIFF of these tags is of 16 bits and anything but plain grey."""
    return _bits(tags) == 16 and (tags.get(277, 1) > 1 or tags.get(262) != 1)


def _bits(tags: Image.Exif) -> int:
    bits = tags.get(258, 1)
    return int(max(bits)) if isinstance(bits, tuple) else int(bits)


def read_deep(path: Path, kind: Literal["PNG", "TIFF"]) -> tuple[NDArray[np.uint16], bool]:
    """Pixels uint16 [H, W], [H, W, 3] or [H, W, 4] as they lie in the file, and whether RGBA stands for grey + alpha.

    Premultiplied alpha is undone, white-is-zero turned round. Raises InputError for several pages, a damaged file or
    other channels, MissingExtraError without pyvips.
    """
    vips = require_pyvips(path)
    load = vips.Image.pngload if kind == "PNG" else vips.Image.tiffload
    try:
        # Sequential is also what keeps vips from remembering the file and giving it once more after it changed.
        image = load(str(path), access="sequential", fail_on="error")
        pages = image.get("n-pages") if "n-pages" in image.get_fields() else 1
        if pages > 1:
            raise InputError(f"{path}: has {pages} frames or pages: save the one you want as a file of its own")
        if image.format != "ushort" or image.bands > 4:
            raise InputError(f"{path}: {image.bands} channels of {image.format}: convert it to RGB of 8 or 16 bits")
        pixels: NDArray[np.uint16] = image.numpy()
    except vips.Error as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as an image ({reason}): is the file complete?") from error
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        return pixels[..., [0, 0, 0, 1]], True
    return pixels, False


def write_deep(
    path: Path,
    pixels: NDArray[Any],
    *,
    icc: bytes | None,
    exif: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """Write C-contiguous uint16 [H, W, 2 (grey, alpha), 3 or 4] as .png or .tif(f), lossless, at 16 bits.

    EXIF gets into .png only.

    Raises OSError if the disk refuses, MissingExtraError without pyvips.
    """
    vips = require_pyvips(path)
    height, width, bands = pixels.shape
    image = vips.Image.new_from_memory(pixels.data.cast("B"), width, height, bands, "ushort")
    image = image.copy(interpretation="grey16" if bands == 2 else "rgb16")
    x, y = dpi or (0, 0)  # its own default would be written as 25.4
    image = image.copy(xres=x / 25.4, yres=y / 25.4)
    for name, data in {"icc-profile-data": icc, "exif-data": exif}.items():
        if data:
            image.set_type(vips.GValue.blob_type, name, data)
    try:
        if path.suffix.lower() == ".png":
            image.pngsave(str(path), bitdepth=16, filter="sub", keep="all" if exif else "icc")  # or it makes up EXIF
        else:
            image.tiffsave(str(path), compression="deflate", predictor="horizontal", resunit="inch")
    except vips.Error as error:
        raise OSError(" ".join(str(error).split())) from error
