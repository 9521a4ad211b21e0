"""Which image formats are read and written."""

from __future__ import annotations

import io
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from wdsr_edge import InputError
from wdsr_edge.images.files import Picture, check_writable, read_picture, write_picture
from wdsr_edge.images.formats import (
    FORMATS,
    HEAD,
    READ_ONLY,
    SUFFIXES,
    format_of,
    format_of_file,
    suffix_for,
    what_to_install,
)
from wdsr_edge.images.samples import golden_frame

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic".ljust(HEAD, b"\0")


def saved(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(golden_frame())).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for pillow-heif: PNG behind the first bytes of a HEIC file."""
    module: Any = ModuleType("pillow_heif")
    module.__spec__ = ModuleSpec("pillow_heif", None)
    module.HeifImageFile = lambda file: PngImageFile(io.BytesIO(file.read()[HEAD:]))
    monkeypatch.setitem(sys.modules, "pillow_heif", module)


@pytest.fixture
def no_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(name, name.upper()) for name in ("PNG", "JPEG", "WebP", "BMP", "TIFF", "AVIF", "GIF")],
)
def test_formats_are_told_by_content(kind: str, name: str, tmp_path: Path) -> None:
    data = saved(name)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert format_of(data[:HEAD]) == kind
    assert format_of_file(path) == kind
    assert read_picture(path).pixels.shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (HEIC, "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + b"\0" * 40, "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + b"\0" * 40, "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", None),
        (b"\xff\xff\xff\xffftyp", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"P6\n3 3\n255\n", None),
        (b"", None),
    ],
)
def test_brands(head: bytes, kind: str | None) -> None:
    assert format_of(head) == kind


@given(st.binary(max_size=HEAD) | st.binary(max_size=HEAD - 8).map(lambda rest: b"\0\0\0 ftyp" + rest))
def test_any_bytes_are_some_format_or_none(head: bytes) -> None:
    assert format_of(head) in {*FORMATS.values(), *READ_ONLY.values(), None}


def test_the_suffix_of_a_result(tmp_path: Path) -> None:
    for name, data, suffix in (
        ("a.JFIF", b"", ".JFIF"),
        ("a.avif", b"", ".avif"),
        ("a.gif", saved("GIF"), ".png"),
        ("a.heic", HEIC, ".png"),
        ("a", saved("JPEG"), ".jpg"),
        ("b", saved("TIFF"), ".tif"),
        ("a.photo", saved("WEBP"), ".webp"),
        ("c", b"nothing", ".png"),
    ):
        (tmp_path / name).write_bytes(data)
        assert suffix_for(tmp_path / name) == suffix
    assert suffix_for(tmp_path / "missing") == ".png"


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_that_is_written_can_be_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix.upper()}"
    write_picture(path, Picture(golden_frame()), quality=100)
    assert np.abs(read_picture(path).pixels.astype(int) - golden_frame()).max() < 40
    assert format_of_file(path) == FORMATS[suffix]


def test_avif_keeps_what_it_can(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    icc = b"\0" * 16 + b"RGB " + b"\0" * 108
    rgba = np.dstack([golden_frame(), golden_frame()[..., 0]])
    write_picture(tmp_path / "a.avif", Picture(rgba, icc, exif.tobytes(), (300.0, 300.0)))
    back = read_picture(tmp_path / "a.avif")
    assert back.pixels.shape == rgba.shape
    assert (back.icc, back.dpi) == (icc, (300.0, 300.0))
    assert b"A camera" in (back.exif or b"")
    assert read_picture(tmp_path / "a.avif").pixels[..., 3].std() > 10


def test_avif_of_more_than_readers_take_is_refused(tmp_path: Path) -> None:
    for size, words in (((32769, 1), "32768 a side of AVIF"), ((20000, 20000), "pixels of AVIF")):
        with pytest.raises(InputError, match=words):
            check_writable(tmp_path / "a.avif", size=size, alpha=False, deep=False)
    with pytest.raises(InputError, match="AVIF has no 16 bits"):
        check_writable(tmp_path / "a.avif", size=(1, 1), alpha=False, deep=True)


def test_avif_without_its_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.avif").write_bytes(saved("AVIF"))
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    assert what_to_install(".AVIF") == "pip install -U pillow"
    with pytest.raises(InputError, match=r"a.avif: AVIF needs Pillow 11.3"):
        read_picture(tmp_path / "a.avif")
    with pytest.raises(InputError, match=r"b.avif: AVIF needs Pillow 11.3"):
        write_picture(tmp_path / "b.avif", Picture(golden_frame()))
    assert not (tmp_path / "b.avif").exists()


def test_heic_through_pillow_heif(tmp_path: Path, heif: None) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC + saved("PNG"))
    assert what_to_install(".heic") == ""
    assert (read_picture(tmp_path / "a.heic").pixels == golden_frame()).all()


def test_heic_without_pillow_heif(tmp_path: Path, no_heif: None) -> None:
    (tmp_path / "a.heic").write_bytes(HEIC)
    assert what_to_install(".HEIC") == "pip install 'wdsr-edge[heif]'"
    with pytest.raises(ImportError, match=r"a.heic: HEIC needs pillow-heif.*wdsr-edge\[heif\]"):
        read_picture(tmp_path / "a.heic")


def test_heic_through_the_real_pillow_heif(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    path = tmp_path / "a.heic"
    heif.from_pillow(Image.fromarray(golden_frame())).save(path, quality=95)
    assert format_of_file(path) == "HEIC"
    assert np.abs(read_picture(path).pixels.astype(int) - golden_frame()).mean() < 4
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"a.heic: cannot be read"):
        read_picture(path)
