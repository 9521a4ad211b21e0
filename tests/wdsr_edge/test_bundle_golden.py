"""The golden pair of a bundle, whatever it holds."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.bundles import at_most, edit, one_line, replace
from wdsr_edge import Bundle, BundleError
from wdsr_edge.bundle import GOLDEN_LR, GOLDEN_SR
from wdsr_edge.images.samples import golden_frame


def png(width: int, height: int, *after: tuple[bytes, bytes], pixels: bytes | None = None) -> bytes:
    """A PNG with these sizes in its header and these chunks behind its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    if pixels is None:
        pixels = (b"\0" + b"\x80" * 3 * width) * height if width * height < 1 << 20 else b""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(pixels))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, *after, (b"IEND", b"")])


GOLDENS = {
    "empty": b"",
    "garbage": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "truncated": png(128, 96)[:60],
    "no pixels": png(128, 96, pixels=b""),
    "large": png(5000, 5000),
    "larger than PIL warns of": png(12_000, 9_000),
    "larger than PIL takes": png(60_000, 60_000),
    "largest": png((1 << 31) - 1, (1 << 31) - 1),
    "nothing": png(0, 0),
    "another scale": png(100, 96),
    "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "text bomb": png(128, 96, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (64 << 20)))),
}


@pytest.mark.parametrize("data", GOLDENS.values(), ids=GOLDENS)
def test_a_golden_frame_that_is_none(data: bytes, bundle: Path) -> None:
    replace(bundle, GOLDEN_LR, data)
    loaded = Bundle.load(bundle)
    with at_most(20), pytest.raises(BundleError) as caught:
        loaded.golden()
    assert "\n" not in str(caught.value)


CHUNKS = "gAMA cHRM sRGB pHYs tRNS PLTE iCCP tEXt zTXt iTXt eXIf acTL fcTL fdAT bKGD IHDR IDAT sBIT tIME abcd".split()  # noqa: SIM905


@pytest.mark.parametrize("kind", CHUNKS)
def test_a_broken_chunk_behind_the_pixels(kind: str, bundle: Path) -> None:
    for payload in (
        start + fill * length for length in (0, 1, 8, 40) for start, fill in ((b"", b"\0"), (b"a\0", b"\xff"))
    ):
        replace(bundle, GOLDEN_LR, png(128, 96, (kind.encode(), payload)))
        loaded = Bundle.load(bundle)
        try:
            lr, _ = loaded.golden()
        except BundleError:
            continue
        assert lr.shape == (96, 128, 3)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=30), position=st.integers(0, 1 << 20))
def test_a_spoiled_golden_frame(data: bytes, position: int, good: Path) -> None:
    directory = good.parent / "spoiled"
    if not directory.exists():
        shutil.copytree(good, directory)
    whole = png(128, 96)
    position %= len(whole)
    replace(directory, GOLDEN_LR, whole[:position] + data + whole[position + len(data) :])
    try:
        Bundle.load(directory).golden()
    except BundleError as error:
        one_line(error)


def test_goldens_of_the_wrong_scale(bundle: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(golden_frame().repeat(3, 0).repeat(3, 1)).save(buffer, "PNG")
    replace(bundle, GOLDEN_SR, buffer.getvalue())
    with pytest.raises(BundleError, match="x2"):
        Bundle.load(bundle).golden()


def test_no_goldens(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].pop(GOLDEN_SR))
    with pytest.raises(BundleError, match=r"golden/sr\.png"):
        Bundle.load(bundle).golden()
