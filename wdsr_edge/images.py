"""Image files in and out, with what makes them a photo: bit depth, alpha, colour profile, EXIF and resolution."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ._errors import InputError, WdsrError
from ._files import replacing
from .exif import ORIENTATION, RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, append_exif, kept_exif, usable_dpi
from .formats import FORMATS, HEAD, SUFFIXES, check_codec, decoder, format_of
from .images16 import needs_vips, read_deep, require_pyvips, tiff_tags, write_deep

Rgb = NDArray[np.uint8]
"""[H, W, 3]."""

_MAX_SIDE = {"JPEG": 65500, "WebP": 16383, "AVIF": 32768}
_MAX_AREA = {"AVIF": 1 << 28}
"""What readers take; Pillow would write more."""
_MODES = frozenset(
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I;16N")
)

_PREDICTOR = 317
_BOXES = 1 << 16
"""How much of an AVIF or HEIC file is searched for its bit depth, which stands before the pixels."""
_SIDEWAYS = (5, 6, 7, 8)

_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """An image the right way up. Change its pixels with ``dataclasses.replace``."""

    pixels: NDArray[Any]
    """uint8 or uint16, [H, W] grey, [H, W, 3] RGB or [H, W, 4] RGBA with straight alpha."""
    icc: bytes | None = None
    """Colour profile of the pixels; None means sRGB."""
    exif: bytes | None = None
    """EXIF block ("Exif\\0\\0II*\\0...") without orientation, thumbnail, size and resolution."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical resolution in pixels per inch, above 1, at most 65535."""
    grey: bool = False
    """RGBA pixels that stand for grey with alpha, and are written as that."""


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


def read_picture(path: Path, *, max_pixels: int = 250_000_000) -> Picture:
    """An image file, told by its content whatever its suffix, with EXIF orientation applied.

    It is PNG, JPEG, WebP, BMP, TIFF, AVIF, GIF or HEIC; the last needs pillow-heif, AVIF Pillow 11.3.

    Grey stays grey, palettes become RGB, a transparent colour becomes alpha, CMYK becomes sRGB through its profile.
    16 bits stay 16 bits: grey through Pillow, colour and alpha through pyvips. Of a JPEG with a gain map, the photo.
    Raises InputError for a file that is none of these, damaged, animated, of several pages, of more than
    ``max_pixels`` pixels (seen before decoding), LAB or not of 1, 2, 4, 8 or 16 unsigned bits; MissingExtraError if
    a package is needed and absent. The text begins with the path.
    """
    try:
        with open(path, "rb") as file:
            return _read(path, file, max_pixels)
    except WdsrError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        spoken = isinstance(error, (OSError, SyntaxError)) and str(error)
        reason = getattr(error, "strerror", None) or (" ".join(str(error).split()) if spoken else "it is damaged")
        raise InputError(f"{path}: cannot be read as an image ({reason}): is the file complete?") from error


def write_picture(path: Path, picture: Picture, *, quality: int = 95) -> None:
    """Write ``picture`` in the format of the suffix; on any error ``path`` stays as it was.

    ``quality``, 1 to 100, is for JPEG (at 4:4:4) and WebP; the others are lossless. Profile, EXIF and resolution are
    written but for what the format cannot hold: BMP has neither profile nor EXIF, WebP no grey, JPEG no EXIF above
    64 KiB. uint16 is written at 16 bits, grey through Pillow, the rest through pyvips. Raises InputError as
    ``check_writable`` does and if the disk refuses, MissingExtraError if pyvips is needed and absent.
    """
    pixels = np.ascontiguousarray(picture.pixels)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim < 2 or pixels.shape[2:] not in ((), (3,), (4,)):
        got = f"{pixels.dtype} {list(pixels.shape)}"
        raise InputError(f"a picture is uint8 or uint16, [H, W], [H, W, 3] or [H, W, 4], got {got}")
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise InputError(f"quality must be an integer from 1 to 100, got {quality!r}")
    deep, alpha = pixels.dtype == np.uint16, pixels.shape[2:] == (4,)
    check_writable(path, size=(pixels.shape[1], pixels.shape[0]), alpha=alpha, deep=deep)
    if alpha and picture.grey:
        pixels = _grey_alpha(pixels)
    through_vips = deep and pixels.ndim == 3
    if through_vips:
        require_pyvips(path)
    kind = FORMATS[path.suffix.lower()]
    dpi = usable_dpi(picture.dpi)
    try:
        with replacing(path) as fresh:
            if through_vips:
                write_deep(fresh, pixels, icc=picture.icc, exif=picture.exif, dpi=dpi)
            else:
                encoded = io.BytesIO()  # in memory, so that a full disk is one error of ours and not of a C library
                Image.fromarray(pixels).save(encoded, kind, **_options(kind, picture, dpi, quality))
                fresh.write_bytes(encoded.getbuffer())
                if kind == "TIFF" and picture.exif:
                    append_exif(fresh, picture.exif)
    except WdsrError:
        raise
    except (OSError, RuntimeError, SyntaxError, ValueError, struct.error) as error:
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def check_writable(path: Path, *, size: tuple[int, int], alpha: bool, deep: bool) -> None:
    """Raise the InputError that ``write_picture`` would raise for a picture of ``size`` (width, height), if any.

    ``alpha`` is whether it has alpha, ``deep`` whether it is uint16. Writes nothing.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}: use one of {' '.join(sorted(SUFFIXES))}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file in it")
    check_codec(kind, path)
    if min(size) < 1:
        raise InputError(f"{path}: a picture has at least one pixel, got {size[0]}x{size[1]}")
    if deep and kind not in ("PNG", "TIFF"):
        raise InputError(f"{path}: {kind} has no 16 bits per channel: write .png or .tif, or convert to 8 bits")
    if alpha and kind in ("JPEG", "BMP"):
        raise InputError(f"{path}: {kind} has no transparency: write .png, .webp or .tif, or remove the alpha channel")
    limit = _MAX_SIDE.get(kind)
    if limit is not None and max(size) > limit:
        raise InputError(f"{path}: {size[0]}x{size[1]} is more than the {limit} a side of {kind}: write .png or .tif")
    area = _MAX_AREA.get(kind)
    if area is not None and size[0] * size[1] > area:
        raise InputError(f"{path}: {size[0]}x{size[1]} is more than the {area} pixels of {kind}: write .png or .tif")


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
        return _picture(pixels, grey, tags, {"icc_profile": tags.get(34675)})
    if kind in ("AVIF", "HEIC"):
        _check_depth(path, kind, file.read(_BOXES))
        file.seek(0)
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
    image = decoder(kind, path)(file)
    _check_size(path, image.size, max_pixels)
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"{path}: has {pages} frames or pages: save the one you want as a file of its own")
    depth = head[24] if kind == "PNG" else 8
    if depth == 16 and head[25] != 0:
        pixels, grey = read_deep(path, "PNG")
        exif = Image.Exif()
        with suppress(Exception):
            exif.load(image.info.get("exif", b""))
        return _picture(pixels, grey, exif, image.info)
    if image.mode not in _MODES and depth != 16:  # Pillow before 11 says I of a 16-bit grey PNG
        raise InputError(f"{path}: colour mode {image.mode} is not supported: convert it to RGB of 8 or 16 bits")
    image.load()
    exif = Image.Exif()
    with suppress(Exception):  # a damaged EXIF block is no reason to lose the photo
        exif = image.getexif()
    info = dict(image.info)
    if image.mode == "CMYK":
        info["icc_profile"] = None
    if tags is not None and tags.get(ORIENTATION) in _SIDEWAYS and "dpi" in info:  # Pillow turns a TIFF's pixels only
        info["dpi"] = info["dpi"][::-1]
    return _picture(*_pixels(image, depth), exif, info)


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise InputError(
            f"{path}: {size[0]}x{size[1]} is more than {max_pixels} pixels: cut it up, or raise the limit "
            "(max_pixels in Python, --max-pixels of upscale)"
        )


def _check_depth(path: Path, kind: str, boxes: bytes) -> None:
    """Refuse AVIF and HEIC of more than 8 bits, which their decoders would round to 8 without a word."""
    for name, offset, mask in ((b"av1C", 6, 0x40), (b"hvcC", 21, 0x07)):
        start = boxes.find(name)
        if start >= 0 and start + offset < len(boxes) and boxes[start + offset] & mask:
            raise InputError(f"{path}: {kind} of more than 8 bits is not supported: convert it to a 16-bit PNG or TIFF")


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


def _picture(pixels: NDArray[Any], grey: bool, exif: Image.Exif, info: dict[Any, Any]) -> Picture:
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
    return Picture(np.ascontiguousarray(pixels), info.get("icc_profile") or None, kept_exif(exif), dpi, grey)


def _grey_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """RGBA as grey (BT.601 luma) and alpha [H, W, 2]; R = G = B stays exactly what it is."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("LA"))
    luma = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.dstack([np.rint(luma).astype(np.uint16), pixels[..., 3]])


def _options(kind: str, picture: Picture, dpi: tuple[float, float] | None, quality: int) -> dict[str, Any]:
    """Arguments of Pillow's save."""
    if kind == "BMP":
        return {"dpi": dpi or (0, 0)}
    options: dict[str, Any] = {"icc_profile": picture.icc} | ({} if dpi is None else {"dpi": dpi})
    if kind == "TIFF":  # Pillow cannot write EXIF into a compressed one
        return options | {"compression": "tiff_adobe_deflate", "tiffinfo": {_PREDICTOR: 2}}
    exif = Image.Exif()
    exif.load(picture.exif or b"")
    if kind == "JPEG":
        options.update(quality=quality, subsampling=0)
    elif kind == "AVIF":
        options.update(quality=quality, subsampling="4:4:4")
    elif kind == "WebP":
        options.update(quality=quality)
    if kind in ("WebP", "AVIF"):
        if dpi is not None:  # the only place that they have for it
            exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = *dpi, 2
        if picture.icc is not None and picture.icc[16:20] == b"GRAY":  # they are RGB, whatever the picture was
            options["icc_profile"] = None
    data = exif.tobytes() if exif else b""
    if data and (kind != "JPEG" or len(data) <= 65533):
        options["exif"] = data
    return options
