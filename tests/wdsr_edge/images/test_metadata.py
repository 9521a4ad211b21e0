"""XMP, IPTC, comments and texts: kept where a format holds them, said where not, whatever they are."""

from __future__ import annotations

import dataclasses
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.bundles import one_line
from tests.wdsr_edge.images.test_png import chunk, png
from wdsr_edge import InputError
from wdsr_edge.images.files import Picture, read_picture, write_picture
from wdsr_edge.images.metadata import Metadata, as_utf8, current
from wdsr_edge.images.samples import golden_frame

FRAME = golden_frame()[:24, :32]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description dc:rights="Someone \xc3\xa9"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x05\0\x05Title\x1c\x02\x74\0\x07Someone"
COMMENTS = (b"first", "zweiter, süß".encode())
EVERYTHING = Metadata(XMP, IPTC, COMMENTS, ((b"tEXt", b"Copyright\0Someone"), (b"tEXt", b"Comment\0third")))
HOLDS = {
    ".png": ("xmp", "texts"),
    ".jpg": ("xmp", "iptc", "comments"),
    ".webp": ("xmp",),
    ".tif": ("xmp", "iptc"),
    ".avif": ("xmp",),
    ".bmp": (),
}


def exif() -> bytes:
    block = Image.Exif()
    block[271] = "ACME"
    return block.tobytes()


@pytest.mark.parametrize(
    "pixels", [FRAME, FRAME[..., 0].copy(), FRAME.astype(np.uint16) * 257], ids=["RGB", "grey", "16"]
)
@pytest.mark.parametrize("suffix", HOLDS)
def test_each_format_keeps_what_it_holds(tmp_path: Path, suffix: str, pixels: Any) -> None:
    if pixels.dtype == np.uint16 and suffix not in (".png", ".tif"):
        return
    picture = Picture(pixels, exif=exif(), dpi=(300, 300), metadata=EVERYTHING)
    notes = write_picture(tmp_path / f"a{suffix}", picture)
    again = read_picture(tmp_path / f"a{suffix}")
    for name in ("xmp", "iptc"):
        assert getattr(again.metadata, name) == (getattr(EVERYTHING, name) if name in HOLDS[suffix] else None)
    assert again.dpi == pytest.approx((300, 300), abs=0.02)
    assert (again.exif is not None) == (suffix != ".bmp")
    if suffix == ".jpg":
        assert again.metadata.comments == (*COMMENTS, b"third")
    if suffix == ".png":
        texts = [text for _, text in again.metadata.texts]
        assert texts[:2] == [b"Copyright\0Someone", b"Comment\0third"]
        assert texts[2:] == [b"Comment\0\0\0\0\0" + comment for comment in COMMENTS]
    (note,) = notes
    lost = {
        ".png": "PNG does not hold its IPTC",
        ".jpg": "JPEG does not hold its texts",
        ".webp": "WebP does not hold its IPTC and comment and texts",
        ".tif": "TIFF does not hold its comment and texts",
        ".avif": "AVIF does not hold its IPTC and comment and texts",
        ".bmp": "BMP does not hold its EXIF and XMP and IPTC and comment and texts",
    }
    assert note == lost[suffix]


@pytest.mark.parametrize("suffix", HOLDS)
def test_nothing_to_keep_is_nothing_to_say(tmp_path: Path, suffix: str) -> None:
    assert write_picture(tmp_path / f"a{suffix}", Picture(FRAME)) == ()
    assert read_picture(tmp_path / f"a{suffix}").metadata == Metadata()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_what_other_programs_wrote_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(FRAME)
    if suffix == ".png":
        path.write_bytes(png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)))
    elif suffix == ".tif":
        image.save(path, tiffinfo={700: XMP, 33723: IPTC})
    elif suffix == ".jpg":
        image.save(path, extra=b"\xff\xe1" + struct.pack(">H", len(XMP) + 31) + b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    else:
        image.save(path, xmp=XMP)
    assert read_picture(path).metadata.xmp == XMP
    if suffix == ".tif":
        assert read_picture(path).metadata.iptc == IPTC


def test_a_gif_comment_becomes_a_text(tmp_path: Path) -> None:
    Image.fromarray(FRAME).quantize(16).save(tmp_path / "a.gif", comment=b"drawn by Someone")
    picture = read_picture(tmp_path / "a.gif")
    write_picture(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"Comment": "drawn by Someone"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("photoshop", [True, False])
def test_iptc_of_a_jpeg(tmp_path: Path, photoshop: bool) -> None:
    """Behind another resource with an odd name and size."""
    other = b"8BIM\x03\xed\x03abc\0\0\0\x03xyz\0" if photoshop else b""
    block = (
        b"Photoshop 3.0\0" + other + b"8BIM\x04\x04\0\0" + struct.pack(">L", len(IPTC)) + IPTC + bytes(len(IPTC) % 2)
    )
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    Image.fromarray(FRAME).save(tmp_path / "a.jpg", extra=segment)
    assert read_picture(tmp_path / "a.jpg").metadata.iptc == IPTC
    write_picture(tmp_path / "b.tif", read_picture(tmp_path / "a.jpg"))
    write_picture(tmp_path / "c.jpg", read_picture(tmp_path / "b.tif"))
    assert read_picture(tmp_path / "c.jpg").metadata.iptc == IPTC


@pytest.mark.parametrize("name", ["xmp", "iptc", "comments"])
def test_what_is_too_large_for_jpeg_is_said(tmp_path: Path, name: str) -> None:
    large = {"xmp": XMP + b" " * 70000, "iptc": IPTC + bytes(70000), "comments": (bytes(70000), b"small")}[name]
    picture = Picture(FRAME, metadata=Metadata(**{name: large}))  # type: ignore[arg-type]
    (note,) = write_picture(tmp_path / "a.jpg", picture)
    words = {"xmp": "XMP", "iptc": "IPTC", "comments": "comment"}[name]
    assert note == f"JPEG does not hold its {words} of more than 64 KiB"
    assert read_picture(tmp_path / "a.jpg").metadata.comments == ((b"small",) if name == "comments" else ())
    if name != "comments":
        assert write_picture(tmp_path / "a.tif", picture) == ()
        assert getattr(read_picture(tmp_path / "a.tif").metadata, name) == large


def test_exif_too_large_for_jpeg_is_said(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x8769] = {0x927C: bytes(70000)}
    (note,) = write_picture(tmp_path / "a.jpg", Picture(FRAME, exif=block.tobytes()))
    assert note == "JPEG does not hold its EXIF of more than 64 KiB"


STALE = [
    b'tiff:Orientation="6"',
    b"tiff:ImageWidth='4000'",
    b'exif:PixelXDimension="4000"',
    b'hdrgm:Version="1.0"',
    b'GCamera:MicroVideoOffset="12345"',
    b'GCamera:MotionPhoto="1"',
    b'xmpNote:HasExtendedXMP="ABCDEF"',
]


@pytest.mark.parametrize("stale", STALE)
def test_xmp_loses_what_is_no_longer_true(stale: bytes) -> None:
    kept = b'<rdf:Description dc:rights="Someone" xmp:Rating="5" GPano:FullPanoWidthPixels="10"'
    assert current(kept + b"\n " + stale + b"/>") == kept + b"\n/>"
    name, value = stale.split(b"=")
    element = b"<%b>%b</%b>" % (name, value.strip(b"\"'"), name)
    assert current(b"<a>" + element + b"<b/></a>") == b"<a><b/></a>"


def test_xmp_loses_thumbnails_and_what_was_behind_the_picture() -> None:
    for name in (b"xmp:Thumbnails", b"Container:Directory"):
        tree = b"<%b><rdf:Seq><rdf:li>/9j/4AAQ</rdf:li></rdf:Seq></%b>" % (name, name)
        assert current(b"<a>" + tree + b"<c/>" + tree + b"</a>") == b"<a><c/></a>"
        assert current(b"<a><" + name + b"></a>") == b"<a><" + name + b"></a>"


@pytest.mark.parametrize("xmp", [None, b"", b" \0\n", 5, b"x" * (5 << 20)])
def test_what_is_no_xmp(xmp: Any) -> None:
    assert current(xmp) is None


@pytest.mark.parametrize(
    "part",
    [
        b" ",
        b' tiff:Orientation="',
        b" tiff:Orientation='",
        b"<tiff:Orientation>",
        b"<Container:Directory>",
        b"<xmp:Thumbnails ",
        b"</xmp:Thumbnails>",
        b"<xmp:Thumbnails></xmp:Thumbnails>",
        b" hdrgm:" + b"a" * 60,
    ],
)
def test_hostile_xmp_takes_no_time(part: bytes) -> None:
    start = time.process_time()
    current(part * ((4 << 20) // len(part)))
    assert time.process_time() - start < 3


@given(st.binary(max_size=100))
def test_any_comment_is_a_text(comment: bytes) -> None:
    text = as_utf8(comment)
    text.decode()
    assert b"\0" not in text


@given(
    st.sampled_from([".jpg", ".tif", ".webp", ".png", ".avif"]),
    st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=12),
    st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_mutated_files_never_crash(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, changes: list[tuple[float, int]], near: bool
) -> None:
    """Read or refused in one line; what was read can be written in every format."""
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"whole{suffix}"
    if not path.exists():
        write_picture(path, Picture(FRAME, exif=exif(), dpi=(300, 300), metadata=EVERYTHING))
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[int(place * (min(len(data), 700) if near else len(data)))] = value
    (folder / f"spoiled{suffix}").write_bytes(data)
    try:
        picture = read_picture(folder / f"spoiled{suffix}", max_pixels=100_000)
    except InputError as error:
        one_line(error)
        return
    small = dataclasses.replace(picture, pixels=picture.pixels[:8, :8])
    for target in (".png", ".tif") if picture.pixels.dtype == np.uint16 or picture.pixels.shape[2:] == (4,) else HOLDS:
        for note in write_picture(folder / f"out{target}", small):
            assert "\n" not in note
        read_picture(folder / f"out{target}")
