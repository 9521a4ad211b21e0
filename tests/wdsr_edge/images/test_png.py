"""Chunks of PNG files: kept, bounded, and hostile ones passed over."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from tests.bundles import at_most, one_line
from wdsr_edge import InputError
from wdsr_edge.images.files import Picture, read_picture, write_picture
from wdsr_edge.images.png import COLOUR, TEXT, insert_chunks, read_chunks, text_chunk, text_of

PIXELS = (np.arange(6 * 7 * 3) * 5 % 256).astype(np.uint8).reshape(6, 7, 3)
CHRM = struct.pack(">8L", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
COLOURS = {
    b"cICP": bytes([12, 13, 0, 1]),
    b"mDCV": bytes(range(24)),
    b"cLLI": bytes(range(8)),
    b"sRGB": b"\1",
    b"gAMA": struct.pack(">L", 100000),
    b"cHRM": CHRM,
}


def chunk(name: bytes, data: bytes, *, check: int | None = None) -> bytes:
    return (
        struct.pack(">L", len(data))
        + name
        + data
        + struct.pack(">L", zlib.crc32(name + data) if check is None else check)
    )


def png(*chunks: bytes, pixels: Any = PIXELS, after: bool = False, deep: bool = False) -> bytes:
    """A PNG with these chunks behind its header, or behind its pixels."""
    if deep:
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.astype(np.uint16) * 257)
        header = chunk(b"IHDR", struct.pack(">LLBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    else:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        data = file.getvalue()
    place = len(data) - 12 if after else 33
    return data[:place] + b"".join(chunks) + data[place:]


def read(data: bytes, folder: Path) -> Picture:
    (folder / "in.png").write_bytes(data)
    return read_picture(folder / "in.png")


def chunks_of(path: Path) -> list[tuple[bytes, bytes]]:
    data, place, found = path.read_bytes(), 8, []
    while place < len(data):
        (length,) = struct.unpack_from(">L", data, place)
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert zlib.crc32(name + body) == struct.unpack_from(">L", data, place + 8 + length)[0]
        found.append((name, body))
        place += 12 + length
    return found


@pytest.mark.parametrize("deep", [False, True])
def test_colour_chunks_are_written_again(tmp_path: Path, deep: bool) -> None:
    picture = read(png(*(chunk(name, data) for name, data in COLOURS.items()), deep=deep), tmp_path)
    assert dict(picture.colour) == COLOURS
    assert write_picture(tmp_path / "out.png", picture) == ()
    found = chunks_of(tmp_path / "out.png")
    assert {name: data for name, data in found if name in COLOURS} == COLOURS
    names = [name for name, _ in found]
    assert max(names.index(name) for name in COLOURS) < names.index(b"IDAT")
    again = read_picture(tmp_path / "out.png")
    assert (again.pixels == picture.pixels).all()
    assert again.pixels.dtype == (np.uint16 if deep else np.uint8)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_texts_are_written_again_as_they_are(tmp_path: Path, deep: bool, after: bool) -> None:
    texts = [
        (b"tEXt", b"Copyright\0Someone \xa9"),
        (b"zTXt", b"Long\0\0" + zlib.compress(b"text " * 1000)),
        (b"iTXt", "Titel\0\0\0de\0Überschrift\0Süß".encode()),
        (b"iTXt", b"Big\0\1\0\0\0" + zlib.compress(b"x" * 50000)),
    ]
    picture = read(png(*(chunk(*text) for text in texts), deep=deep, after=after), tmp_path)
    assert [*picture.metadata.texts] == texts
    assert write_picture(tmp_path / "out.png", picture) == ()
    assert [one for one in chunks_of(tmp_path / "out.png") if one[0] in TEXT] == texts


BOMB = zlib.compress(bytes(64 << 20), 9)
BOMBS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "raw EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "iCCP": chunk(b"iCCP", b"huge\0\0" + BOMB),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("after", [False, True])
def test_bombs_are_not_loaded_and_cost_no_picture(tmp_path: Path, name: str, after: bool) -> None:
    with at_most(5):
        picture = read(png(BOMBS[name], after=after), tmp_path)
    assert (picture.pixels == PIXELS).all()
    assert (picture.icc, picture.exif, picture.metadata.xmp, picture.metadata.texts) == (None, None, None, ())
    if name != "iCCP" or not after:
        (words,) = picture.metadata.left_out
        assert "huge" in words
        assert write_picture(tmp_path / "out.png", picture) == (f"left out: {words}",)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_in_16_bits(tmp_path: Path, name: str) -> None:
    with at_most(10):
        assert (read(png(BOMBS[name], deep=True), tmp_path).pixels == PIXELS.astype(np.uint16) * 257).all()


def test_many_and_large_texts_are_bounded(tmp_path: Path) -> None:
    small, large = chunk(b"tEXt", b"key\0value"), chunk(b"tEXt", b"key\0" + bytes(1_000_000))
    picture = read(png(small * 1500), tmp_path)
    assert len(picture.metadata.texts) == 1000
    assert picture.metadata.left_out == ("texts beyond 8 MiB or the 1000th",)
    picture = read(png(large * 12), tmp_path)
    assert len(picture.metadata.texts) == 8
    picture = read(png(chunk(b"tEXt", b"key\0" + bytes(5 << 20)), small), tmp_path)
    assert len(picture.metadata.texts) == 1
    assert picture.metadata.left_out == ("a text of more than 1 MiB",)
    write_picture(tmp_path / "out.png", picture)
    with Image.open(tmp_path / "out.png") as image:
        image.load()


DAMAGED = [
    chunk(b"gAMA", b""),
    chunk(b"gAMA", b"12345"),
    chunk(b"gAMA", b"1234", check=0),
    chunk(b"cHRM", b"\0" * 31),
    chunk(b"sRGB", b""),
    chunk(b"cICP", b"\1"),
    chunk(b"pHYs", b"123"),
    chunk(b"pHYs", b"123456789", check=0),
    chunk(b"iCCP", b""),
    chunk(b"iCCP", b"name\0\0garbage"),
    chunk(b"iCCP", b"name\0\1" + zlib.compress(b"profile")[:-6]),
    chunk(b"eXIf", b"garbage"),
    chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 40),
    chunk(b"tEXt", b""),
    chunk(b"tEXt", b"\0no key"),
    chunk(b"tEXt", b"k" * 80 + b"\0too long"),
    chunk(b"tEXt", b"key\0value", check=1),
    chunk(b"zTXt", b"key\0\0garbage"),
    chunk(b"zTXt", b"key\0\7" + zlib.compress(b"x")),
    chunk(b"iTXt", b"key\0"),
    chunk(b"iTXt", b"key\0\1\0\0"),
    chunk(b"iTXt", b"key\0\5\0\0\0text"),
    chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  4\nzzzz")),
    chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\xff" * 40)),
]


@pytest.mark.parametrize("data", DAMAGED)
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_damaged_chunks_cost_no_picture(tmp_path: Path, data: bytes, deep: bool, after: bool) -> None:
    if deep and data in (DAMAGED[2], DAMAGED[7], DAMAGED[16]):
        return  # libpng refuses a file with a wrong checksum
    picture = read(png(data, deep=deep, after=after), tmp_path)
    assert (picture.pixels == PIXELS.astype(picture.pixels.dtype) * (257 if deep else 1)).all()
    assert (picture.colour, picture.metadata.texts, picture.icc) == ((), (), None)
    for name in ("out.png", "out.tif"):
        write_picture(tmp_path / name, picture)
        assert (read_picture(tmp_path / name).pixels == picture.pixels).all()


def test_too_many_parts_are_refused_in_one_line(tmp_path: Path) -> None:
    with at_most(10), pytest.raises(InputError, match="too many chunks") as caught:
        read(png((chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"")) * 10_001), tmp_path)
    assert "\n" not in str(caught.value)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_mutations_never_crash(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = bytearray(
        png(
            *(chunk(name, body) for name, body in COLOURS.items()),
            chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>"),
            chunk(b"zTXt", b"key\0\0" + zlib.compress(b"text")),
            chunk(b"pHYs", b"123456789"),
        )
    )
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(8, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        picture = read(bytes(whole[: cut or None]), folder)
    except InputError as error:
        one_line(error)
    else:
        for name in ("out.png", "out.jpg", "out.bmp") if picture.pixels.shape[2:] == (3,) else ("out.png",):
            write_picture(folder / name, picture)


@given(st.sampled_from(TEXT), st.binary(max_size=120))
def test_any_bytes_are_a_text_or_none(name: bytes, data: bytes) -> None:
    text_of((name, data))
    text_of((name, b"key\0" + data))


def test_what_a_decoder_reads_is_a_file(tmp_path: Path) -> None:
    data = png(chunk(b"tEXt", b"a\0b") * 3, chunk(b"pHYs", bytes(9)), chunk(b"tEXt", b"a\0b"), after=True)
    contents = read_chunks(io.BytesIO(data))
    whole = contents.pixels.read()
    assert whole == data.replace(chunk(b"tEXt", b"a\0b"), b"")
    for start in (0, 7, 8, 40, len(whole) - 1, len(whole), len(whole) + 9):
        contents.pixels.seek(start)
        assert contents.pixels.read(20) == whole[start : start + 20]


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 125 + "a.png")
    write_picture(path, read(png(chunk(b"tEXt", b"key\0value")), tmp_path))
    assert read_picture(path).metadata.texts == ((b"tEXt", b"key\0value"),)


def test_chunks_are_put_behind_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    before = chunks_of(path)
    insert_chunks(path, [])
    assert chunks_of(path) == before
    text = text_chunk(b"Comment", b"hello")
    insert_chunks(path, [text])
    assert chunks_of(path) == [before[0], text, *before[1:]]
    with Image.open(path) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text == {"Comment": "hello"}
    assert [*COLOUR] == [*COLOURS]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
