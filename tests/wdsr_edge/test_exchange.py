"""A folder put in another's place: at once, or in two steps that a kill in the middle does not spoil."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wdsr_edge import _exchange
from wdsr_edge._exchange import heal, put, swap
from wdsr_edge._files import replacing


def folder(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(text)
    return path


@pytest.fixture
def in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, and on file systems that cannot exchange."""
    monkeypatch.setattr(_exchange, "swap", lambda one, other: False)


def test_two_folders_change_places(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one", "1"), folder(tmp_path / "other é", "2")
    assert swap(one, other)
    assert ((one / "file").read_text(), (other / "file").read_text()) == ("2", "1")


def test_nothing_is_done_where_one_is_missing(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", "1")
    assert not swap(one, tmp_path / "other")
    assert (one / "file").read_text() == "1"


def test_a_reader_always_finds_a_whole_folder(tmp_path: Path) -> None:
    target, lacking, stop = folder(tmp_path / "target", "0"), [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            lacking.extend([1] if not (target / "file").is_file() else [])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(200):
            with replacing(target, directory=True) as fresh:
                (fresh / "file").write_text(str(i))
    finally:
        stop.set()
        reader.join()
    assert not lacking
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_in_two_steps_as_well(tmp_path: Path, in_two_steps: None) -> None:
    target = folder(tmp_path / "target", "old")
    with replacing(target, directory=True) as fresh:
        (fresh / "file").write_text("new")
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("kind", [PermissionError, KeyboardInterrupt])
def test_a_failure_between_the_steps_leaves_the_old_one(
    kind: type[BaseException], tmp_path: Path, in_two_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, fresh = folder(tmp_path / "target", "old"), folder(tmp_path / "scratch" / "target", "new")
    real, calls = os.rename, []

    def rename(source: Path, to: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise kind
        real(source, to)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(kind):
        put(fresh, target)
    assert len(calls) == 3
    assert (target / "file").read_text() == "old"


KILLED = """
import os, sys
from wdsr_edge import _exchange
from wdsr_edge._files import replacing
_exchange.swap = lambda one, other: False
real = os.rename
def rename(source, target):
    real(source, target)
    os._exit(9)
os.rename = rename
with replacing(sys.argv[1], directory=True) as fresh:
    (fresh / "file").write_text("new")
"""


def killed(target: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False).returncode == 9
    assert not target.exists()


def later(tmp_path: Path) -> None:
    """A while after whatever lies there."""
    for scratch in tmp_path.iterdir():
        os.utime(scratch, (time.time() - 10,) * 2)


def test_a_kill_between_the_steps_is_healed(tmp_path: Path) -> None:
    target = folder(tmp_path / "target [1]", "old")
    killed(target)
    later(tmp_path)
    assert heal(target)
    assert (target / "file").read_text() == "old"
    assert heal(target)


def test_it_is_healed_by_the_next_that_writes(tmp_path: Path) -> None:
    target = folder(tmp_path / "target", "old")
    killed(target)
    later(tmp_path)
    with pytest.raises(ZeroDivisionError), replacing(target, directory=True):
        raise ZeroDivisionError
    assert (target / "file").read_text() == "old"


def test_one_that_is_still_at_it_is_waited_for(tmp_path: Path) -> None:
    target = tmp_path / "target"
    old = folder(tmp_path / ".target.abc" / "target.old", "old")
    timer = threading.Timer(0.1, lambda: old.parent.rename(tmp_path / "away") and folder(target, "new"))
    timer.start()
    assert heal(target) in (True, False)  # as the folder that it watches goes before the new one comes
    timer.join()
    assert (target / "file").read_text() == "new"


@pytest.mark.parametrize("name", ["nothing", "a" * 300, "x\0y", "nowhere/nothing"])
def test_nothing_to_heal(tmp_path: Path, name: str) -> None:
    assert not heal(tmp_path / name)
