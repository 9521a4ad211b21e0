"""Pictures written: each format with all that it can hold, and in words what it cannot."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._errors import InputError, WdsrError
from .._files import replacing
from .deep import require_pyvips, write_deep
from .exif import RESOLUTION_UNIT, X_RESOLUTION, Y_RESOLUTION, append_exif, usable_dpi
from .formats import FORMATS, SUFFIXES, check_codec
from .icc import is_grey_profile, profile_of, to_srgb
from .jpeg import make_segments
from .metadata import IPTC_TAG, XMP_TAG, as_utf8
from .picture import Picture
from .png import Chunk, insert_chunks, is_comment, text_chunk, text_of, xmp_chunk

_MAX_SIDE = {"JPEG": 65500, "WebP": 16383, "AVIF": 32768}
_MAX_AREA = {"AVIF": 1 << 28}
"""Largest side that readers accept; Pillow would write more."""
_MOST_ICC_IN_JPEG = 255 * 65519
_MOST_EXIF_IN_JPEG = 65533
_LOSSY = ("JPEG", "AVIF")
_PREDICTOR = 317


def write_picture(
    path: Path, picture: Picture, *, quality: int = 95, lossless: bool | None = None, like: Path | None = None
) -> tuple[str, ...]:
    """Write ``picture`` in the format of the suffix; on any error ``path`` stays as it was.

    PNG, TIFF and BMP are lossless; JPEG and AVIF, at 4:4:4, are not. WebP is what ``lossless`` says, and by default
    what the picture was before. ``quality``, 1 to 100, is for what is not lossless. uint16 is written at 16 bits, grey
    through Pillow, the rest through pyvips. Profile, EXIF, XMP, IPTC, comments, texts and resolution are written as far
    as the format holds them; what it does not hold is returned, in words: colours of a profile that it cannot hold are
    converted to sRGB. The file gets the permissions that ``cp`` would give to a copy of file ``like``. Raises
    InputError as ``check_writable`` does and if the disk refuses, MissingExtraError if pyvips is needed and absent.
    """
    pixels = np.ascontiguousarray(picture.pixels)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim < 2 or pixels.shape[2:] not in ((), (3,), (4,)):
        got = f"{pixels.dtype} {list(pixels.shape)}"
        raise InputError(f"a picture is uint8 or uint16, [H, W], [H, W, 3] or [H, W, 4], got {got}")
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise InputError(f"quality must be an integer from 1 to 100, got {quality!r}")
    deep, alpha = pixels.dtype == np.uint16, pixels.shape[2:] == (4,)
    size = pixels.shape[1], pixels.shape[0]
    check_writable(path, size=size, alpha=alpha, deep=deep, lossless=bool(lossless))
    kind = FORMATS[path.suffix.lower()]
    pixels, icc, lost = _colours(kind, picture, pixels)
    if alpha and picture.grey:
        pixels = _grey_alpha(pixels)
    through_vips = deep and pixels.ndim == 3
    if through_vips:
        require_pyvips(path)
    dpi = usable_dpi(picture.dpi)
    options, left = _options(kind, picture, icc, dpi, quality, picture.lossless if lossless is None else lossless)
    try:
        with replacing(path, like=like) as fresh:
            if through_vips:
                write_deep(fresh, pixels, icc=icc, exif=picture.exif, dpi=dpi)
            else:
                encoded = io.BytesIO()  # in memory, so that a full disk is one error of ours and not of a C library
                Image.fromarray(pixels).save(encoded, kind, **options)
                fresh.write_bytes(encoded.getbuffer())
            if kind == "TIFF":
                more = {XMP_TAG: picture.metadata.xmp, IPTC_TAG: picture.metadata.iptc}
                append_exif(fresh, picture.exif or b"", {tag: data for tag, data in more.items() if data})
            elif kind == "PNG":
                insert_chunks(fresh, _chunks(picture))
    except WdsrError:
        raise
    except (OSError, RuntimeError, SyntaxError, ValueError, struct.error) as error:
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    if left:
        lost.append(f"{kind} does not hold its {' and '.join(dict.fromkeys(left))}")
    return (*lost, *(f"left out: {what}" for what in picture.metadata.left_out))


def check_writable(path: Path, *, size: tuple[int, int], alpha: bool, deep: bool, lossless: bool = False) -> None:
    """Raise the InputError that ``write_picture`` would raise for a picture of ``size`` (width, height), if any.

    ``alpha`` is whether it has alpha, ``deep`` whether it is uint16, ``lossless`` whether that was asked for. Writes
    nothing.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: unknown suffix {path.suffix!r}: use one of {' '.join(sorted(SUFFIXES))}")
    if lossless:
        check_lossless(path)
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


def _grey_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """RGBA as grey (BT.601 luma) and alpha [H, W, 2]; R = G = B stays exactly what it is."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("LA"))
    luma = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.dstack([np.rint(luma).astype(np.uint16), pixels[..., 3]])


def check_lossless(path: Path) -> None:
    """Raise InputError if the format of this suffix is always lossy."""
    kind = FORMATS.get(path.suffix.lower())
    if kind in _LOSSY:
        raise InputError(f"{path}: {kind} is written lossy only: leave out lossless, or write .png, .webp or .tif")


def _colours(kind: str, picture: Picture, pixels: NDArray[Any]) -> tuple[NDArray[Any], bytes | None, list[str]]:
    """Pixels and profile as the format holds them, and in words what became of them."""
    if kind == "PNG":
        return pixels, picture.icc, []
    icc, whole = profile_of(picture.colour, picture.icc, grey=pixels.ndim == 2 or picture.grey)
    lost = [] if whole else [f"{kind} does not hold what its PNG says of its colours (HDR, or no known ones)"]
    holds = kind != "BMP" and not (kind == "JPEG" and len(icc or b"") > _MOST_ICC_IN_JPEG)
    if icc is None or (holds and not (kind in ("WebP", "AVIF") and is_grey_profile(icc))):  # they are always RGB
        return pixels, icc, lost
    converted = to_srgb(pixels, icc) if pixels.dtype == np.uint8 else None
    if converted is None:
        return pixels, None, [*lost, f"its colour profile is left out: {kind} does not hold it, and it is damaged"]
    return converted, None, [*lost, f"its colours are converted to sRGB: {kind} does not hold its profile"]


def _chunks(picture: Picture) -> list[Chunk]:
    """PNG chunks besides those that Pillow and vips write."""
    metadata = picture.metadata
    chunks = [*picture.colour, *metadata.texts, *([xmp_chunk(metadata.xmp)] if metadata.xmp else [])]
    return chunks + [text_chunk(b"Comment", as_utf8(comment)) for comment in metadata.comments]


def _options(
    kind: str, picture: Picture, icc: bytes | None, dpi: tuple[float, float] | None, quality: int, lossless: bool
) -> tuple[dict[str, Any], list[str]]:
    """Arguments of Pillow's save, and what the format does not hold of the metadata."""
    metadata = picture.metadata
    lost = ["IPTC"] if metadata.iptc and kind not in ("JPEG", "TIFF") else []
    if metadata.comments and kind not in ("JPEG", "PNG"):
        lost.append("comment")
    if kind != "PNG" and any(kind != "JPEG" or not is_comment(text) for text in metadata.texts):
        lost.append("texts")
    if kind == "BMP":
        blocks = {"EXIF": picture.exif, "XMP": metadata.xmp}
        return {"dpi": dpi or (0, 0)}, [*(name for name, data in blocks.items() if data), *lost]
    options: dict[str, Any] = {"icc_profile": icc} | ({} if dpi is None else {"dpi": dpi})
    if kind == "TIFF":  # Pillow cannot write EXIF into a compressed one
        return options | {"compression": "tiff_adobe_deflate", "tiffinfo": {_PREDICTOR: 2}}, lost
    exif = Image.Exif()
    exif.load(picture.exif or b"")
    if kind == "JPEG":
        comments = [text[1] for text in map(text_of, filter(is_comment, metadata.texts)) if text]
        extra, too_large = make_segments(metadata.xmp, metadata.iptc, (*metadata.comments, *comments))
        options.update(quality=quality, subsampling=0, extra=extra)
        lost += too_large
    elif kind == "AVIF":
        options.update(quality=quality, subsampling="4:4:4")
    elif kind == "WebP" and lossless:
        options.update(lossless=True, exact=True)
    elif kind == "WebP":
        options.update(quality=quality)
    if kind in ("WebP", "AVIF"):
        options["xmp"] = metadata.xmp or b""
        if dpi is not None:  # the only place that they have for it
            exif[X_RESOLUTION], exif[Y_RESOLUTION], exif[RESOLUTION_UNIT] = *dpi, 2
    data = exif.tobytes() if exif else b""
    if kind == "JPEG" and len(data) > _MOST_EXIF_IN_JPEG:
        lost.append("EXIF of more than 64 KiB")
    elif data:
        options["exif"] = data
    return options, lost
