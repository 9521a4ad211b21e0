"""What a user names may be anything: nothing that is not a regular file is waited for, read without end or replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wdsr_edge import InputError
from wdsr_edge._files import check_regular, open_regular, read_regular, read_text, read_toml, replacing
from wdsr_edge.bundle import Bundle
from wdsr_edge.images.files import read_rgb
from wdsr_edge.loading import precision_of
from wdsr_edge.models import import_weights, load_checkpoint
from wdsr_edge.training.recipe import read_run_file
from wdsr_edge.training.state import restore_state


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def zero(path: Path) -> Path:
    """Through a link, as a name with a suffix."""
    path.symlink_to("/dev/zero")
    return path


Odd = Callable[[Path], Path]
odd = pytest.mark.parametrize("make", [fifo, zero])


@odd
@pytest.mark.parametrize("read", [open_regular, read_regular, read_text, check_regular])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path, make: Odd, read: Callable[[Path], Any]) -> None:
    with pytest.raises(OSError, match="a pipe or a device, not a regular file"):
        read(make(tmp_path / "odd"))


@odd
@pytest.mark.parametrize(
    "read",
    [
        read_toml,
        read_run_file,
        read_rgb,
        load_checkpoint,
        import_weights,
        precision_of,
        Bundle.load,
        lambda path: restore_state(path, {}, {}),
    ],
)
@pytest.mark.timeout(20)
def test_every_reader_of_a_file_refuses_it_in_one_line(tmp_path: Path, make: Odd, read: Callable[[Path], Any]) -> None:
    path = make(tmp_path / "odd.png")
    with pytest.raises(Exception, match="odd") as caught:
        read(path)
    assert type(caught.value).__module__ == "wdsr_edge._errors"
    assert "\n" not in str(caught.value)


def test_no_more_is_read_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_regular(path, 1 << 20)
    with pytest.raises(OSError, match="larger than 64 MiB"):
        read_text(path)
    with pytest.raises(InputError, match=f"{path}: it is larger than 64 MiB"):
        read_toml(path)
    path.write_bytes(b"1234")
    assert read_regular(path, 4) == b"1234"
    with pytest.raises(OSError, match="over 3 bytes"):
        read_regular(path, 3)


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfsteps = 3\r\n")
    assert read_toml(tmp_path / "a.toml") == {"steps": 3}


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)


@odd
def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path, make: Odd) -> None:
    path = make(tmp_path / "odd")
    with pytest.raises(InputError, match="would be replaced"), replacing(path) as fresh:
        fresh.write_bytes(b"")
    assert not path.is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == ["odd"]
