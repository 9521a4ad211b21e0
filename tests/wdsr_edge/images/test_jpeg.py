"""Segments of JPEG files: hostile ones cost no picture."""

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

from tests.bundles import at_most, one_line
from wdsr_edge import InputError
from wdsr_edge.images.files import Picture, read_picture, write_picture
from wdsr_edge.images.jpeg import make_segments, read_segments
from wdsr_edge.images.metadata import Metadata
from wdsr_edge.images.samples import golden_frame

FRAME = golden_frame()[:24, :32]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"http://ns.adobe.com/xap/1.0/\0"
SEGMENTS = [
    (0xE0, b""),
    (0xE0, b"JFIF\0"),
    (0xE1, b""),
    (0xE1, XMP),
    (0xE1, b"Exif\0\0"),
    (0xE1, b"Exif\0\0MM"),
    (0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    (0xE2, b"ICC_PROFILE\0"),
    (0xE2, b"ICC_PROFILE\0\x01\x02half"),
    (0xE2, b"MPF\0"),
    (0xED, b"Photoshop 3.0\0"),
    (0xED, b"Photoshop 3.0\x008BIM"),
    (0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff" + b"\xff" * 9),
    (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff\x1c"),
    (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x05other"),
    (0xEE, b"Adobe"),
    (0xEE, b"Adobe\0d\0"),
    (0xEF, b"\xff" * 100),
    (0xFE, b""),
]


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(body) + 2) + body


def jpeg(segments: bytes = b"", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(FRAME).save(file, "JPEG", quality=95, **options)
    return file.getvalue()[:2] + segments + file.getvalue()[2:]


def plain() -> Any:
    with Image.open(io.BytesIO(jpeg())) as image:
        return np.asarray(image)


@pytest.mark.parametrize(("marker", "body"), SEGMENTS)
def test_damaged_segments_cost_no_picture(tmp_path: Path, marker: int, body: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(segment(marker, body)))
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.pixels == plain()).all()
    assert (picture.icc, picture.exif, picture.metadata) == (None, None, Metadata())
    assert write_picture(tmp_path / "b.jpg", picture) == ()


def test_all_of_them_at_once(tmp_path: Path) -> None:
    data = b"".join(segment(*one) for one in SEGMENTS) + segment(0xFE, b"c") * 100 + b"\xff" * 50
    (tmp_path / "a.jpg").write_bytes(jpeg(data, icc_profile=SRGB, dpi=(300, 300)))
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.pixels == plain()).all()
    assert picture.metadata == Metadata(comments=(b"c",) * 16)
    assert picture.dpi == (300, 300)


@pytest.mark.parametrize("order", [[1, 2], [2, 1]])
def test_a_profile_in_parts(tmp_path: Path, order: list[int]) -> None:
    parts = {1: SRGB[:400], 2: SRGB[400:]}
    both = [segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 2]) + parts[number]) for number in order]
    for data, icc in ((b"".join(both), SRGB), (both[0], None), (both[1], None)):
        (tmp_path / "a.jpg").write_bytes(jpeg(data))
        assert read_picture(tmp_path / "a.jpg").icc == icc


def test_cmyk_and_exif_and_a_large_profile_are_read_as_before(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[274] = "ACME", 6
    Image.fromarray(FRAME).save(tmp_path / "a.jpg", exif=exif, icc_profile=SRGB + bytes(150_000), quality=95)
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.pixels == np.rot90(plain(), -1)).all()
    assert picture.icc == SRGB + bytes(150_000)
    assert picture.exif is not None
    Image.fromarray(FRAME).convert("CMYK").save(tmp_path / "c.jpg", quality=100)
    assert np.abs(read_picture(tmp_path / "c.jpg").pixels.astype(int) - FRAME).mean() < 3


def test_what_a_decoder_reads_is_a_file() -> None:
    data = jpeg(segment(0xFE, b"comment") + segment(0xE1, XMP + b"<x/>"))
    contents = read_segments(io.BytesIO(data))
    assert contents.pixels.read() == jpeg()
    assert (contents.comments, contents.xmp) == ((b"comment",), b"<x/>")


def test_no_scan_takes_long() -> None:
    with at_most(10):
        read_segments(io.BytesIO(b"\xff\xd8" + b"\xff" * (50 << 20)))
        read_segments(io.BytesIO(b"\xff\xd8" + segment(0xFE, b"") * 300_000))


def test_segments_made_are_read() -> None:
    iptc = b"\x1c\x02\x05\0\x05Title"
    data, lost = make_segments(b"<x/>", iptc, [b"one", bytes(65534), b"two"])
    assert lost == ["comment of more than 64 KiB"]
    contents = read_segments(io.BytesIO(jpeg(data)))
    assert (contents.xmp, contents.iptc, contents.comments) == (b"<x/>", iptc, (b"one", b"two"))


@given(st.lists(st.tuples(st.sampled_from(SEGMENTS), st.binary(max_size=40)), max_size=5), st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_segments_never_crash(
    tmp_path_factory: pytest.TempPathFactory, segments: list[tuple[tuple[int, bytes], bytes]], rest: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jpg"
    path.write_bytes(jpeg(b"".join(segment(marker, body + more) for (marker, body), more in segments) + rest))
    try:
        picture = read_picture(path)
    except InputError as error:
        one_line(error)
    else:
        write_picture(path.with_name("out.jpg"), Picture(FRAME, icc=picture.icc, exif=picture.exif, dpi=picture.dpi))
