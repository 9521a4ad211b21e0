"""Colour profiles: made from what a PNG says of its colours, and colours converted where a format holds no profile."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ..frames import is_grey
from .png import Chunk

Xy = tuple[float, float]

# ITU-T H.273: primaries (red, green, blue, white) and curves, by their code in cICP.
_D65, _DCI = (0.3127, 0.3290), (0.314, 0.351)
_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65)
_PRIMARIES: dict[int, tuple[Xy, Xy, Xy, Xy]] = {
    1: _SRGB,
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
}
# An exponent, or ICC's parametric curve of type 3: exponent, a, b, c, d.
Curve = tuple[float, ...]
_SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_VIDEO_CURVE: Curve = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 14, 15), _VIDEO_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    13: _SRGB_CURVE,
}
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of(colour: Sequence[Chunk], icc: bytes | None, *, grey: bool) -> tuple[bytes | None, bool]:
    """The ICC profile of a PNG with these chunks of ``png.COLOUR`` and this iCCP, and whether it says all that they do.

    None is sRGB. The order is the PNG specification's: cICP, iCCP, sRGB, then gAMA and cHRM. HDR (PQ, HLG) and other
    colours that no simple profile holds are not all said. ``grey`` is whether the pixels have one channel.
    """
    chunks = dict(colour)
    if b"cICP" in chunks:
        primaries, curve, matrix, full = chunks[b"cICP"]
        if primaries not in _PRIMARIES or curve not in _CURVES or matrix != 0 or full != 1:
            return icc, False
        return _made(_PRIMARIES[primaries], _CURVES[curve], grey), True
    if icc is not None or b"sRGB" in chunks:
        return icc, True
    corners = _SRGB
    if b"cHRM" in chunks:
        values = [value / 100_000 for value in struct.unpack(">8L", chunks[b"cHRM"])]
        white, red, green, blue = zip(values[::2], values[1::2], strict=True)
        corners = red, green, blue, white
    (gamma,) = struct.unpack(">L", chunks.get(b"gAMA", struct.pack(">L", 45455)))
    if not 10_000 <= gamma <= 1_000_000:
        return None, False
    plain = abs(gamma - 45455) <= 500 and (b"gAMA" not in chunks or grey or _like_srgb(corners))
    return _made(corners, _SRGB_CURVE if plain else (100_000 / gamma,), grey), True


def _like_srgb(corners: tuple[Xy, Xy, Xy, Xy]) -> bool:
    return bool(np.abs(np.subtract(corners, _SRGB)).max() <= 0.002)


def is_grey_profile(icc: bytes) -> bool:
    """True if a profile is for one channel."""
    return icc[16:20] == b"GRAY"


def to_srgb(pixels: NDArray[np.uint8], icc: bytes) -> NDArray[np.uint8] | None:
    """Pixels (grey, RGB, or RGBA) of profile ``icc`` as sRGB; None if the profile cannot be used for them.

    Grey, in one channel or in RGBA, stays grey, with sRGB's curve. Alpha is kept.
    """
    colours = pixels[..., :3] if pixels.ndim == 3 else pixels
    grey = is_grey_profile(icc)
    if grey and colours.ndim == 3:
        if not is_grey(colours):
            return None
        colours = colours[..., 0]
    elif not grey and colours.ndim == 2:
        colours = np.repeat(colours[..., None], 3, 2)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        target = ImageCms.ImageCmsProfile(io.BytesIO(_profile(_SRGB, _SRGB_CURVE, grey)))
        image = Image.fromarray(np.ascontiguousarray(colours))
        found = ImageCms.profileToProfile(image, source, target, outputMode="L" if grey else "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    converted = np.asarray(found)
    if pixels.ndim == 2:
        return converted if converted.ndim == 2 else converted[..., 1]
    if converted.ndim == 2:
        converted = np.repeat(converted[..., None], 3, 2)
    return np.dstack([converted, pixels[..., 3:]])


def _made(corners: tuple[Xy, Xy, Xy, Xy], curve: Curve, grey: bool) -> bytes | None:
    """The profile of these primaries and this curve; None for sRGB, and for primaries that span no triangle."""
    if curve == _SRGB_CURVE and (grey or _like_srgb(corners)):
        return None
    try:
        return _profile(corners, curve, grey)
    except (ZeroDivisionError, np.linalg.LinAlgError, struct.error, OverflowError):
        return None


def _profile(corners: tuple[Xy, Xy, Xy, Xy], curve: Curve, grey: bool) -> bytes:
    """An ICC profile of version 4 (ICC.1:2010), the same bytes every time."""
    parametric = b"para" + struct.pack(">4xHxx", 0 if len(curve) == 1 else 3) + _fixed(*curve)
    tags = {
        b"desc": _text("wdsr-edge: from PNG chunks"),
        b"cprt": _text("CC0"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50),
    }
    if grey:
        tags[b"kTRC"] = parametric
    else:
        matrix, adaptation = _to_d50(corners)
        for index, name in enumerate((b"r", b"g", b"b")):
            tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*matrix[:, index])
            tags[name + b"TRC"] = parametric
        tags[b"chad"] = b"sf32\0\0\0\0" + _fixed(*adaptation.flat)
    table, body, places = struct.pack(">L", len(tags)), b"", dict[bytes, int]()
    for name, data in tags.items():
        if data not in places:
            places[data] = 128 + 4 + 12 * len(tags) + len(body)
            body += data + bytes(-len(data) % 4)
        table += name + struct.pack(">LL", places[data], len(data))
    head = struct.pack(
        ">L4xL4s4s4s", 132 + 12 * len(tags) + len(body), 0x04300000, b"mntr", b"GRAY" if grey else b"RGB ", b"XYZ "
    )
    head += struct.pack(">6H4s28x", 2024, 1, 1, 0, 0, 0, b"acsp") + _fixed(*_D50)
    return head.ljust(128, b"\0") + table + body


def _to_d50(corners: tuple[Xy, Xy, Xy, Xy]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Linear RGB to XYZ under D50, and the adaptation (Bradford) from the white to D50."""
    xyz = np.array([(x / y, 1.0, (1 - x - y) / y) for x, y in corners]).T
    primaries, white = xyz[:, :3], xyz[:, 3]
    native = primaries * np.linalg.solve(primaries, white)
    gain = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adaptation = np.linalg.inv(_BRADFORD) @ (gain[:, None] * _BRADFORD)
    return adaptation @ native, adaptation


def _fixed(*values: float) -> bytes:
    """s15Fixed16 numbers."""
    return struct.pack(f">{len(values)}l", *(round(float(value) * 65536) for value in values))


def _text(text: str) -> bytes:
    """A multi-localised text of one entry."""
    data = text.encode("utf-16be")
    return b"mluc" + struct.pack(">4xLL4sLL", 1, 12, b"enUS", len(data), 28) + data
