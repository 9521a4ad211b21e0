"""Lossless WebP stays lossless, and a lossy one gives grey no tint."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.wdsr_edge.test_super_resolver import resolver
from wdsr_edge import InputError
from wdsr_edge.images.files import Picture, check_writable, read_picture, write_picture
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.images.webp import is_lossless, without_tint
from wdsr_edge.upscale import Job, plan, upscale_file

RGBA = np.dstack([golden_frame(), np.add.outer(np.arange(96), np.arange(128)).astype(np.uint8) // 2])


def encoded(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WebP", **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"xmp": b"<x/>"}, {"icc_profile": b"0" * 128}])
@pytest.mark.parametrize("pixels", [golden_frame(), RGBA], ids=["RGB", "RGBA"])
def test_the_mode_of_a_file_is_seen(pixels: Any, options: dict[str, Any]) -> None:
    assert is_lossless(io.BytesIO(encoded(pixels, lossless=True, **options)))
    assert not is_lossless(io.BytesIO(encoded(pixels, quality=100, **options)))


@given(st.binary(max_size=200))
def test_any_bytes_have_a_mode(data: bytes) -> None:
    is_lossless(io.BytesIO(b"RIFF\0\0\0\0WEBP" + data))
    is_lossless(io.BytesIO(b"RIFF\0\0\0\0WEBP" + b"JUNK\0\0\0\0" * 2000 + data))


@pytest.mark.parametrize("pixels", [golden_frame(), RGBA], ids=["RGB", "RGBA"])
def test_lossless_in_is_lossless_out(tmp_path: Path, pixels: Any) -> None:
    source, target = tmp_path / "in.webp", tmp_path / "out.webp"
    source.write_bytes(encoded(pixels, lossless=True, exact=True))
    with resolver() as sr:
        assert upscale_file(sr, Job(source, target)) == ()
        expected = sr(pixels)
        assert (read_picture(target).pixels == expected).all()
        assert read_picture(target).lossless
        upscale_file(sr, Job(source, target), lossless=False)
        assert not read_picture(target).lossless
        source.write_bytes(encoded(pixels, quality=90))
        upscale_file(sr, Job(source, target))
        assert not read_picture(target).lossless
        expected = sr(read_picture(source).pixels)
        upscale_file(sr, Job(source, target), lossless=True)
        assert (read_picture(target).pixels == expected).all()


def test_only_webp_has_both_modes(tmp_path: Path) -> None:
    picture = Picture(golden_frame(), lossless=True)
    for suffix in (".jpg", ".avif"):
        write_picture(tmp_path / f"a{suffix}", picture)
        for refuse in (
            lambda path: write_picture(path, picture, lossless=True),
            lambda path: check_writable(path, size=(2, 2), alpha=False, deep=False, lossless=True),
            lambda path: plan([tmp_path / "a.jpg"], path, 2, lossless=True),
        ):
            with pytest.raises(InputError, match="lossy only") as caught:
                refuse(tmp_path / f"b{suffix}")
            assert "\n" not in str(caught.value)
        assert not (tmp_path / f"b{suffix}").exists()
    for suffix in (".png", ".tif", ".bmp"):
        for lossless in (True, False):
            write_picture(tmp_path / f"a{suffix}", picture, lossless=lossless)
            assert (read_picture(tmp_path / f"a{suffix}").pixels == picture.pixels).all()


@pytest.mark.parametrize("quality", [10, 50, 80, 95])
def test_grey_of_a_lossy_file_is_grey(tmp_path: Path, quality: int) -> None:
    grey = np.repeat(golden_frame()[..., 1:2], 3, 2)
    grey[:32] = np.where(np.add.outer(np.arange(32), np.arange(128)) % 3 > 0, 255, 0)[..., None]
    for pixels in (grey, np.dstack([grey, RGBA[..., 3]])):
        path = tmp_path / "a.webp"
        path.write_bytes(encoded(pixels, quality=quality))
        with Image.open(path) as image:
            decoded = np.asarray(image)
        assert np.ptp(decoded[..., :3], axis=2).any()
        found = read_picture(path).pixels
        seen = found[..., 3] > 0 if found.shape[2] == 4 else np.ones(found.shape[:2], bool)
        assert not np.ptp(found[seen][:, :3], axis=1).any()
        assert np.abs(found[seen].astype(int) - decoded[seen]).max() <= 1


@pytest.mark.parametrize("change", [[0, 0, 1], [0, 2, 0], [1, 0, 0]])
def test_a_colour_is_left_as_it_is(change: list[int]) -> None:
    pixels = np.full((150, 20, 3), 100, np.uint8)
    pixels[::2, :, 1] += 1
    pixels[149, 19] = np.array([100, 100, 100]) + change
    before = pixels.copy()
    assert (without_tint(pixels) == before).all()
