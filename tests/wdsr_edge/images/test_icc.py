"""What a PNG says of its colours, as a profile or converted, against formulas of the standards."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.wdsr_edge.images.test_png import chunk, png
from wdsr_edge.images.files import Picture, read_picture, write_picture
from wdsr_edge.images.icc import profile_of, to_srgb
from wdsr_edge.images.png import COLOUR, Chunk
from wdsr_edge.images.samples import golden_frame

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D65 = (0.3127, 0.3290)
SRGB_XY, P3_XY = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE_XY = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
STEPS = np.array([0, 40, 90, 160, 220, 255], np.uint8)
CUBE = np.stack(np.meshgrid(STEPS, STEPS, STEPS), -1).reshape(12, 18, 3)
LARGE = CUBE.repeat(8, 0).repeat(8, 1)


def gamma(value: int) -> Chunk:
    return b"gAMA", struct.pack(">L", value)


def chroma(corners: Any) -> Chunk:
    return b"cHRM", struct.pack(">8L", *(round(value * 100_000) for xy in (D65, *corners) for value in xy))


def as_srgb(pixels: Any, corners: Any, decode: Any) -> Any:
    """What the colours look like, in sRGB: the textbook's way. All whites here are D65."""

    def matrix(xy: Any) -> Any:
        xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*xy, D65)]).T
        return xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])

    linear = decode(pixels / 255) @ (np.linalg.inv(matrix(SRGB_XY)) @ matrix(corners)).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_curve(value: Any) -> Any:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


CASES = {
    "linear": ([gamma(100000)], SRGB_XY, lambda v: v),
    "1.8": ([gamma(55556)], SRGB_XY, lambda v: v**1.8),
    "P3": ([chroma(P3_XY)], P3_XY, srgb_curve),
    "Adobe RGB": ([gamma(45455), chroma(ADOBE_XY)], ADOBE_XY, lambda v: v**2.2),
    "Display P3 (cICP)": ([(b"cICP", bytes([12, 13, 0, 1])), gamma(100000)], P3_XY, srgb_curve),
    "linear BT.709 (cICP)": ([(b"cICP", bytes([1, 8, 0, 1]))], SRGB_XY, lambda v: v),
}


@pytest.mark.parametrize("name", CASES)
def test_profiles_made_of_chunks_mean_what_the_chunks_do(name: str) -> None:
    chunks, corners, decode = CASES[name]
    icc, whole = profile_of(chunks, None, grey=False)
    assert icc is not None
    assert whole
    found = to_srgb(CUBE, icc)
    assert found is not None
    assert np.abs(found - as_srgb(CUBE, corners, decode)).max() <= 2.5  # of an engine that counts in 8 bits
    assert np.abs(found - as_srgb(CUBE, corners, decode)).mean() <= 0.5
    assert (found.astype(int) != CUBE).any()


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [gamma(45455)],
        [gamma(45000), chroma(SRGB_XY)],
        [(b"sRGB", b"\0"), gamma(100000)],
        [(b"cICP", bytes([1, 13, 0, 1]))],
    ],
)
def test_what_is_srgb_gets_no_profile(chunks: list[Chunk]) -> None:
    for grey in (True, False):
        assert profile_of(chunks, None, grey=grey) == (None, True)


def test_the_order_of_precedence() -> None:
    linear, p3 = [gamma(100000)], (b"cICP", bytes([12, 13, 0, 1]))
    assert profile_of(linear, SRGB, grey=False) == (SRGB, True)
    assert profile_of([p3, *linear], SRGB, grey=False) == profile_of([p3], None, grey=False)
    for hdr in ((9, 16, 0, 1), (9, 18, 0, 1), (2, 2, 0, 1), (9, 13, 1, 1), (9, 13, 0, 0)):
        assert profile_of([(b"cICP", bytes(hdr)), *linear], SRGB, grey=False) == (SRGB, False)


@given(
    st.fixed_dictionaries(
        {}, optional={name: st.binary(min_size=size, max_size=size) for name, size in COLOUR.items()}
    ),
    st.booleans(),
)
@settings(max_examples=300)
def test_any_chunks_make_a_profile_that_can_be_read_or_none(chunks: dict[bytes, bytes], grey: bool) -> None:
    icc, _ = profile_of([*chunks.items()], None, grey=grey)
    if icc is not None:
        assert len(icc) == struct.unpack_from(">L", icc)[0]
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
        to_srgb(CUBE[..., 0] if grey else CUBE, icc)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("pixels", [LARGE, LARGE[..., 0].copy()], ids=["RGB", "grey"])
def test_other_formats_get_the_profile(tmp_path: Path, suffix: str, pixels: Any) -> None:
    source, target = tmp_path / "in.png", tmp_path / f"out{suffix}"
    source.write_bytes(png(chunk(*gamma(100000)), pixels=pixels))
    notes = write_picture(target, read_picture(source))
    found = read_picture(target)
    if pixels.ndim == 2 and suffix in (".webp", ".avif"):  # RGB only
        assert found.icc is None
        assert "converted to sRGB" in notes[0]
        seen = found.pixels
    else:
        assert notes == ()
        assert found.icc is not None
        seen = to_srgb(found.pixels, found.icc)
    expected = as_srgb(np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels, SRGB_XY, lambda v: v)
    expected = expected[..., 0] if seen.ndim == 2 else expected
    assert np.abs(seen - expected).mean() < (2 if suffix == ".tif" else 8)


@pytest.mark.parametrize("deep", [True, False])
def test_16_bits_get_the_profile(tmp_path: Path, deep: bool) -> None:
    (tmp_path / "in.png").write_bytes(png(chunk(*gamma(100000)), pixels=CUBE, deep=deep))
    picture = read_picture(tmp_path / "in.png")
    assert write_picture(tmp_path / "out.tif", picture) == ()
    again = read_picture(tmp_path / "out.tif")
    assert (again.pixels == picture.pixels).all()
    assert (again.icc, True) == profile_of([gamma(100000)], None, grey=False)


RGBA = np.dstack([CUBE, CUBE[..., 0]])


@pytest.mark.parametrize("name", CASES)
def test_bmp_is_converted_and_says_so(tmp_path: Path, name: str) -> None:
    chunks, corners, decode = CASES[name]
    (tmp_path / "in.png").write_bytes(png(*(chunk(*one) for one in chunks), pixels=CUBE))
    (note,) = write_picture(tmp_path / "out.bmp", read_picture(tmp_path / "in.png"))
    assert note == "its colours are converted to sRGB: BMP does not hold its profile"
    found = read_picture(tmp_path / "out.bmp")
    assert np.abs(found.pixels - as_srgb(CUBE, corners, decode)).mean() <= 0.5


def test_grey_stays_grey_and_alpha_stays() -> None:
    icc = profile_of([gamma(100000)], None, grey=True)[0]
    assert icc is not None
    grey = CUBE[..., 0]
    found = to_srgb(grey, icc)
    assert found is not None
    assert found.shape == grey.shape
    assert np.abs(found - as_srgb(np.repeat(grey[..., None], 3, 2), SRGB_XY, lambda v: v)[..., 0]).max() <= 1.5
    four = np.dstack([grey, grey, grey, CUBE[..., 1]])
    both = to_srgb(four, icc)
    assert both is not None
    assert (both == np.dstack([found, found, found, CUBE[..., 1]])).all()
    colour = profile_of([gamma(100000)], None, grey=False)[0]
    assert colour is not None
    assert np.abs(to_srgb(grey, colour).astype(int) - found).max() <= 1  # type: ignore[union-attr]
    converted = to_srgb(RGBA, colour)
    assert converted is not None
    assert (converted[..., 3] == RGBA[..., 3]).all()
    assert to_srgb(CUBE, icc) is None  # colours, and a profile for grey


@pytest.mark.parametrize("icc", [b"", b"garbage", b"\0" * 200, SRGB[:300], SRGB[:16] + b"CMYK" + SRGB[20:]])
def test_a_damaged_profile_is_left_out_and_said(tmp_path: Path, icc: bytes) -> None:
    notes = write_picture(tmp_path / "a.bmp", Picture(golden_frame(), icc=icc or b"x"))
    assert notes == ("its colour profile is left out: BMP does not hold it, and it is damaged",)
    assert (read_picture(tmp_path / "a.bmp").pixels == golden_frame()).all()


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".bmp", ".webp", ".avif"])
def test_hdr_is_said(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in.png").write_bytes(png(chunk(b"cICP", bytes([9, 16, 0, 1])), pixels=CUBE))
    (note,) = write_picture(tmp_path / f"out{suffix}", read_picture(tmp_path / "in.png"))
    assert "HDR" in note
    assert "\n" not in note


def test_a_profile_too_large_for_jpeg_is_converted(tmp_path: Path) -> None:
    icc = profile_of([gamma(100000)], None, grey=False)[0]
    assert icc is not None
    large = struct.pack(">L", 17 << 20) + icc[4:] + bytes((17 << 20) - len(icc))
    (note,) = write_picture(tmp_path / "a.jpg", Picture(CUBE, icc=large))
    assert "JPEG does not hold" in note
    with Image.open(tmp_path / "a.jpg") as image:
        assert "icc_profile" not in image.info
