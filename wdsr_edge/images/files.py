"""Image files read, with what makes them a photo: bit depth, alpha, colours, EXIF, XMP, texts and resolution."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from .._errors import InputError, WdsrError
from .._files import open_regular
from .deep import needs_vips, read_deep, tiff_tags
from .exif import ORIENTATION, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, kept_exif, usable_dpi
from .formats import HEAD, decoder, format_of
from .heif import BOXES, colour_of, is_deep
from .jpeg import JpegContents, read_segments
from .metadata import Metadata, of_image, of_jpeg, of_png, of_tags
from .picture import Picture
from .png import Chunk, PngContents, read_chunks
from .webp import is_lossless, without_tint
from .writing import check_writable, write_picture

__all__ = ["MAX_PIXELS", "Picture", "Rgb", "check_writable", "read_picture", "read_rgb", "write_picture"]

Rgb = NDArray[np.uint8]
"""[H, W, 3]."""

MAX_PIXELS = 250_000_000
"""Default limit of ``read_picture``."""
_MODES = frozenset(
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N")
)

_SIDEWAYS = (5, 6, 7, 8)

_lock = threading.Lock()


def read_rgb(path: Path) -> Rgb:
    """An image file as uint8 HWC RGB, whatever it holds: grey repeated, alpha left out, 16 bits rounded to 8.

    Raises what ``read_picture`` does.
    """
    pixels = read_picture(path).pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def read_picture(path: Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """An image file, told by its content whatever its suffix, with EXIF orientation applied.

    It is PNG, JPEG, WebP, BMP, TIFF, AVIF, GIF or HEIC; the last needs pillow-heif, AVIF Pillow 11.3.

    Grey stays grey, palettes become RGB, a transparent colour becomes alpha, CMYK becomes sRGB through its profile.
    16 bits stay 16 bits: grey through Pillow, colour and alpha through pyvips. Of a JPEG with a gain map, the photo.
    Raises InputError for a file that is none of these, damaged, animated, of several pages, of more than
    ``max_pixels`` pixels (seen before decoding), LAB or not of 1, 2, 4, 8 or 16 unsigned bits; MissingExtraError if
    a package is needed and absent. The text begins with the path.
    """
    try:
        with open_regular(path) as file:
            return _read(path, file, max_pixels)
    except WdsrError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        spoken = isinstance(error, (OSError, SyntaxError)) and str(error)
        reason = getattr(error, "strerror", None) or (" ".join(str(error).split()) if spoken else "it is damaged")
        raise InputError(f"{path}: cannot be read as an image ({reason}): is the file complete?") from error


def _read(path: Path, file: BinaryIO, max_pixels: int) -> Picture:
    head = file.read(HEAD)
    if not head:
        raise InputError(f"{path}: is empty")
    kind = format_of(head)
    if kind is None:
        raise InputError(f"{path}: is not a PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF image")
    tags = tiff_tags(path, file, head) if kind == "TIFF" else None
    file.seek(0)
    if tags is not None and needs_vips(tags):
        _check_size(path, (tags[256], tags[257]), max_pixels)
        pixels, grey = read_deep(path, "TIFF")
        return _picture(pixels, grey, tags, {"icc_profile": tags.get(34675)}, of_tags(tags))
    with _no_limit_of_pillow() if kind in ("TIFF", "WebP", "GIF") else nullcontext():
        return _decoded(path, file, kind, head, tags, max_pixels)


@contextmanager
def _no_limit_of_pillow() -> Iterator[None]:
    """Two of its plugins warn and fail by ``Image.MAX_IMAGE_PIXELS`` by themselves; ``max_pixels`` is our limit."""
    with _lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decoded(
    path: Path,
    file: BinaryIO,
    kind: str,
    head: bytes,
    tags: Image.Exif | None,
    max_pixels: int,
) -> Picture:
    contents: PngContents | JpegContents | None = None
    boxes = file.read(BOXES) if kind in ("AVIF", "HEIC") else b""
    if is_deep(boxes):  # decoders would round it to 8 bits without a word
        raise InputError(f"{path}: {kind} of more than 8 bits is not supported: convert it to a 16-bit PNG or TIFF")
    file.seek(0)
    if kind in ("PNG", "JPEG"):
        contents = read_chunks(file) if kind == "PNG" else read_segments(file)
    file.seek(0)
    lossless = kind == "WebP" and is_lossless(file)
    file.seek(0)
    image = decoder(kind, path)(contents.pixels if contents else file)
    _check_size(path, image.size, max_pixels)
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"{path}: has {pages} frames or pages: save the one you want as a file of its own")
    colour = contents.colour if isinstance(contents, PngContents) else colour_of(boxes)
    if contents:
        metadata = of_png(contents) if isinstance(contents, PngContents) else of_jpeg(contents)
        image.info |= {"icc_profile": contents.icc, "exif": contents.exif or b"", "xmp": contents.xmp}
    else:
        metadata = of_image(image) if tags is None else of_tags(tags)
    depth = head[24] if kind == "PNG" else 8
    deep = depth == 16 and head[25] != 0
    if not deep and image.mode not in _MODES and depth != 16:  # Pillow before 11 says I of a 16-bit grey PNG
        raise InputError(f"{path}: colour mode {image.mode} is not supported: convert it to RGB of 8 or 16 bits")
    if not deep:
        image.load()
    exif = Image.Exif()
    with suppress(Exception):  # a damaged EXIF block is not a reason to lose the photo
        exif = image.getexif()
    if deep:
        pixels, grey = read_deep(path, "PNG")
        return _picture(pixels, grey, exif, image.info, metadata, colour)
    info = dict(image.info)
    if info.get("icc_profile") and kind in ("AVIF", "HEIC"):
        colour = ()
    if image.mode == "CMYK":
        info["icc_profile"] = None
    if tags is not None and tags.get(ORIENTATION) in _SIDEWAYS and "dpi" in info:  # Pillow turns a TIFF's pixels only
        info["dpi"] = info["dpi"][::-1]
    pixels, grey = _pixels(image, depth)
    if kind == "WebP" and not lossless:
        pixels = without_tint(pixels)
    return _picture(pixels, grey, exif, info, metadata, colour, lossless)


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise InputError(
            f"{path}: {size[0]}x{size[1]} is more than {max_pixels} pixels: cut it up, or raise the limit "
            "(max_pixels in Python, --max-pixels of upscale)"
        )


def _pixels(image: Image.Image, depth: int) -> tuple[NDArray[Any], bool]:
    """The pixels as ``Picture`` has them, and its ``grey``."""
    if image.mode == "CMYK":
        return _array(_srgb(image)), False
    if image.mode == "LA":
        return _array(image)[..., [0, 0, 0, 1]], True
    if image.mode in ("1", "L") or image.mode.startswith("I"):
        grey = _array(image.convert("L") if image.mode == "1" else image)
        if grey.dtype != np.uint8:
            grey = grey.astype(np.uint16, copy=False)
        key = image.info.get("transparency")
        if not isinstance(key, int):
            return grey, False
        opaque = np.iinfo(grey.dtype).max
        if image.mode == "1":
            key = 255 if key else 0
        elif depth in (2, 4):  # the key counts as in the file, Pillow's pixels to 255
            key *= 255 // (2**depth - 1)
        return np.dstack([grey, grey, grey, np.where(grey == key, 0, opaque).astype(grey.dtype)]), True
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return _array(image if image.mode == mode else image.convert(mode)), False


def _array(image: Image.Image) -> NDArray[Any]:
    """``numpy.asarray`` in strips: at once, Pillow would hold the pixels three times."""
    width, height = image.size
    first = np.asarray(image.crop((0, 0, width, 1)))
    pixels = np.empty((height, *first.shape[1:]), first.dtype)
    for top in range(0, height, 64):
        bottom = min(top + 64, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def _srgb(image: Image.Image) -> Image.Image:
    """A CMYK image as sRGB through its profile, without a usable one as Pillow has it."""
    profile = image.info.get("icc_profile")
    if profile:
        with suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _picture(
    pixels: NDArray[Any],
    grey: bool,
    exif: Image.Exif,
    info: dict[Any, Any],
    metadata: Metadata,
    colour: tuple[Chunk, ...] = (),
    lossless: bool = False,
) -> Picture:
    orientation = exif.get(ORIENTATION, 1)
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    dpi = usable_dpi(info.get("dpi"))
    if dpi is None and exif.get(RESOLUTION_UNIT, 2) in (2, 3):
        unit = 2.54 if exif.get(RESOLUTION_UNIT) == 3 else 1.0
        dpi = usable_dpi((exif.get(X_RESOLUTION), exif.get(Y_RESOLUTION)), unit)
    if dpi is not None and orientation in _SIDEWAYS:
        dpi = dpi[::-1]
    icc = info.get("icc_profile") or None
    return Picture(np.ascontiguousarray(pixels), icc, kept_exif(exif), dpi, grey, lossless, colour, metadata)
