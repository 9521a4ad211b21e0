"""What AVIF and HEIC files say of bits and colours."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wdsr_edge.images.test_formats import HEIC, saved
from wdsr_edge import InputError
from wdsr_edge.images.files import read_picture, write_picture
from wdsr_edge.images.heif import colour_of, is_deep
from wdsr_edge.images.samples import golden_frame


def test_ten_bits_are_not_rounded_to_eight(tmp_path: Path) -> None:
    data = bytearray(saved("AVIF"))
    data[data.index(b"av1C") + 6] |= 0x40
    (tmp_path / "deep.avif").write_bytes(data)
    (tmp_path / "deep.heic").write_bytes(HEIC + b"hvcC" + b"\0" * 17 + b"\xfa" + b"\0" * 9)
    for name in ("deep.avif", "deep.heic"):
        with pytest.raises(InputError, match=f"{name}: .* of more than 8 bits is not supported"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_real_files_of_more_bits(tmp_path: Path, bits: int) -> None:
    vips = pytest.importorskip("pyvips", reason="the extra image16 is not installed")
    pixels = golden_frame().astype(np.uint16) * 257
    image = vips.Image.new_from_memory(pixels.tobytes(), 128, 96, 3, "ushort").copy(interpretation="rgb16")
    path = tmp_path / "a.avif"
    image.heifsave(str(path), compression="av1", bitdepth=bits)
    assert is_deep(path.read_bytes()) == (bits > 8)


def with_colours(primaries: int, curve: int, **options: object) -> bytes:
    data = bytearray(saved("AVIF", subsampling="4:4:4", quality=95, **options))
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">2H", primaries, curve)
    return bytes(data)


@pytest.mark.parametrize(
    ("primaries", "curve", "chunk"),
    [(1, 13, None), (2, 2, None), (12, 13, (12, 13)), (9, 16, (9, 16)), (12, 2, (12, 13)), (2, 18, (1, 18))],
)
def test_colours_of_the_boxes_are_kept(
    tmp_path: Path, primaries: int, curve: int, chunk: tuple[int, int] | None
) -> None:
    (tmp_path / "a.avif").write_bytes(with_colours(primaries, curve))
    picture = read_picture(tmp_path / "a.avif")
    assert picture.colour == (() if chunk is None else ((b"cICP", bytes([*chunk, 0, 1])),))
    write_picture(tmp_path / "b.png", picture)
    assert read_picture(tmp_path / "b.png").colour == picture.colour
    notes = write_picture(tmp_path / "b.avif", picture)
    again = read_picture(tmp_path / "b.avif")
    assert bool(again.icc) == (chunk in ((12, 13), (1, 13)))
    assert bool(notes) == (curve in (16, 18))


def test_a_profile_goes_before_the_boxes(tmp_path: Path) -> None:
    icc = b"\0" * 16 + b"RGB " + b"\0" * 108
    (tmp_path / "a.avif").write_bytes(saved("AVIF", icc_profile=icc))
    picture = read_picture(tmp_path / "a.avif")
    assert (picture.icc, picture.colour) == (icc, ())


@given(st.binary(max_size=90), st.sampled_from([b"av1C", b"hvcC", b"colrnclx", b"colr"]), st.binary(max_size=30))
def test_any_bytes_are_read(front: bytes, name: bytes, rest: bytes) -> None:
    assert is_deep(front + name + rest) in (True, False)
    assert len(colour_of(front + name + rest)) <= 1
