"""Which files of a folder are images, and what is said about the others."""

from __future__ import annotations

import inspect
import logging
import os
import sys
from pathlib import Path

import pytest

from tests.wdsr_edge.images.test_formats import HEIC, no_heif, saved
from wdsr_edge import InputError
from wdsr_edge.images.folders import find_images, list_images

__all__ = ["no_heif"]


def put(folder: Path, *names: str, data: bytes = b"") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_every_suffix_in_any_case_and_none(tmp_path: Path, no_heif: None) -> None:
    taken = ["a.PNG", "b.Jfif", "c.jpe", "d.jfi", "e.avif", "f.gif", "g.apng", "h.TIFF"]
    put(tmp_path, *taken, "notes.txt", "Thumbs.db", ".DS_Store", "._a.png", "plain")
    put(tmp_path, "scan", data=saved("PNG"))
    put(tmp_path, "k.heic", "l.HEIC", "m.jxl", ".hidden.png")
    put(tmp_path, "n.jpg_large", data=saved("JPEG"))
    found = find_images(tmp_path)
    assert names(found.images, tmp_path) == [*taken, "scan"]
    assert found.passed_over() == (
        "passed over 6 files: 2 .heic (pip install 'wdsr-edge[heif]'), 1 .jpg_large, which is JPEG inside, 1 .jxl, "
        "1 hidden, 1 without a suffix, of another kind"
    )


def test_what_is_no_file_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "link.png").symlink_to("a.png")
    found = find_images(tmp_path)
    assert names(found.images, tmp_path) == ["a.png", "link.png"]
    assert found.passed == {"not a regular file": 1, "broken link": 2}


def test_subfolders_are_counted_or_entered(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a/2.png", "a/1.png", "c.png/deep/x.jpg", "out/b.png", ".cache/y.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    flat = find_images(tmp_path, leave_out=tmp_path / "out")
    assert (names(flat.images, tmp_path), flat.subfolders) == (["b.png"], 2)
    deep = find_images(tmp_path, recursive=True, leave_out=tmp_path / "a" / ".." / "out")
    assert names(deep.images, tmp_path) == ["b.png", "a/1.png", "a/2.png", "c.png/deep/x.jpg"]
    assert (deep.subfolders, deep.passed) == (0, {"link to a folder": 1})


def test_a_subfolder_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "closed/b.png")
    opened = Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return opened(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = find_images(tmp_path, recursive=True)
    assert names(found.images, tmp_path) == ["a.png"]
    assert found.unreadable == [(tmp_path / "closed", "cannot be opened (Permission denied)")]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe\n.png"
    Path(os.fsdecode(path)).touch()
    assert [os.fsencode(found) for found in find_images(tmp_path).images] == [path]


def test_whoever_lists_a_folder_hears_what_was_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "a.png", "b.jxl")
    with caplog.at_level(logging.INFO, "wdsr_edge"):
        assert names(list_images(tmp_path), tmp_path) == ["a.png"]
        assert list_images(tmp_path / "b.jxl") == [tmp_path / "b.jxl"]
    assert caplog.messages == [f"{tmp_path}: passed over 1 file: 1 .jxl"]


def test_no_images_is_an_error_that_counts(tmp_path: Path, no_heif: None) -> None:
    put(tmp_path, "a.heic", data=HEIC)
    with pytest.raises(
        InputError, match=r"no images .*; passed over 1 file: 1 .heic \(pip install 'wdsr-edge\[heif\]'"
    ):
        list_images(tmp_path)
    for path, words in ((tmp_path / "none", "no such file"), (Path("/dev/null"), "not a regular file")):
        with pytest.raises(InputError, match=words):
            list_images(path)


def test_folders_deeper_than_python_calls_go(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("d" * 150)
    put(deep, "a.png")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        found = find_images(tmp_path, recursive=True)
    finally:
        sys.setrecursionlimit(before)
    assert found.images == [deep / "a.png"]
