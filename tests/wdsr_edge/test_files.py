"""What names a file may have, and where caches lie, on each system."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdsr_edge import InputError
from wdsr_edge._files import _folds_case, is_device_name, place_of, replacing, user_cache

DEVICES = ["con", "CON", "nul.png", "Aux.tar.gz", "com1", "COM9.onnx", "lpt1.txt", "prn .png", "conin$", "com¹.png"]
REFUSED = [*DEVICES, "a:b.png", "a?.png", "a*b", 'a"b', "a<b", "a|b", "a.", "a ", "a\tb", "a\\b"]


@pytest.mark.parametrize("name", REFUSED)
def test_windows_refuses_what_linux_takes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with replacing(tmp_path / name) as fresh:
        fresh.write_bytes(b"x")
    assert (tmp_path / name).read_bytes() == b"x"
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match="on Windows"), replacing(tmp_path / name):
        pass


def test_windows_refuses_a_device_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(InputError, match="on Windows"), replacing(tmp_path / "aux" / "x.png"):
        pass
    with replacing(tmp_path / ".." / tmp_path.name / "x.png") as fresh:
        fresh.write_bytes(b"x")


@given(
    name=st.sampled_from(["con", "nul", "com1", "lpt9"]), suffix=st.text("abc.XYZ1", max_size=8), upper=st.booleans()
)
def test_a_device_is_one_whatever_its_suffix(name: str, suffix: str, upper: bool) -> None:
    name = name.upper() if upper else name
    assert is_device_name(f"{name}.{suffix}")
    assert is_device_name(name)
    assert not is_device_name(f"{name}x{suffix}")
    assert not is_device_name(f"x{name}.{suffix}")


def test_a_file_in_use_is_tried_again_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) < 3:
            raise PermissionError(13, "Access is denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(InputError, match="Access is denied"), replacing(tmp_path / "a") as fresh:
        fresh.write_bytes(b"x")
    calls.clear()
    monkeypatch.setattr(sys, "platform", "win32")
    with replacing(tmp_path / "a") as fresh:
        fresh.write_bytes(b"y")
    assert (tmp_path / "a").read_bytes() == b"y"


def test_caches_lie_where_the_system_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_cache().name == "wdsr-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "wdsr-edge"
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, appauthor: Path("C:/Local") / name)
    for system in ("win32", "darwin"):
        monkeypatch.setattr(sys, "platform", system)
        assert user_cache() == Path("C:/Local/wdsr-edge")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "wdsr-edge"


@pytest.mark.parametrize("system", ["Windows", "MacOS", "Unix"])
def test_platformdirs_agrees(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that Linux has nothing else, where we do not ask it."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "AppData" / "Local"))
    module = importlib.import_module(f"platformdirs.{system.lower()}")
    if system == "Windows":  # its registry and its DLL are not here
        monkeypatch.setattr(module, "_RESOLVE_WIN_FOLDER", module.get_win_folder_from_env_vars)
    found = getattr(module, system)("wdsr-edge", appauthor=False).user_cache_path
    places = {
        "Windows": tmp_path / "AppData" / "Local" / "wdsr-edge" / "Cache",
        "MacOS": tmp_path / "Library" / "Caches" / "wdsr-edge",
        "Unix": tmp_path / ".cache" / "wdsr-edge",
    }
    assert found == places[system]


@pytest.mark.parametrize(
    ("source", "umask", "expected"),
    [
        (0o600, 0o022, 0o600),
        (0o777, 0o022, 0o755),
        (0o664, 0o077, 0o600),
        (0o444, 0o022, 0o444),
        (0o4755, 0o022, 0o755),
    ],
)
def test_a_new_file_has_the_permissions_of_a_copy(tmp_path: Path, source: int, umask: int, expected: int) -> None:
    """``cp`` is the standard."""
    like = tmp_path / "like"
    like.touch()
    like.chmod(source)
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "new", like=like) as fresh:
            fresh.write_bytes(b"x")
        with replacing(tmp_path / "plain") as fresh:
            fresh.write_bytes(b"x")
        subprocess.run(["cp", like, tmp_path / "cp"], check=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == expected
    assert stat.S_IMODE((tmp_path / "cp").stat().st_mode) & 0o777 == expected
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o666 & ~umask


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    like, target = tmp_path / "like", tmp_path / "target"
    for path, mode in ((like, 0o600), (target, 0o640)):
        path.touch()
        path.chmod(mode)
    with replacing(target, like=like) as fresh:
        fresh.write_bytes(b"x")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    with replacing(tmp_path / "other", like=tmp_path / "gone") as fresh:
        fresh.write_bytes(b"x")
    assert (tmp_path / "other").read_bytes() == b"x"


@pytest.mark.parametrize("letter", ["a", "ü", "画", "😀", "\udcff"])
def test_the_longest_names_can_be_written(tmp_path: Path, letter: str) -> None:
    name = letter * (255 // len(os.fsencode(letter)))
    for text in (b"old", b"new"):
        with replacing(tmp_path / name) as fresh:
            fresh.write_bytes(text)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"new"


def test_a_file_is_one_place_by_all_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert place_of(tmp_path / "link.png") == place_of(tmp_path / "x" / ".." / "a.png")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert place_of(tmp_path / "circle") == place_of(tmp_path / "." / "circle")
    assert place_of(tmp_path / "A.png") != place_of(tmp_path / "a.png"), "here they are two"
    assert place_of(tmp_path / "new" / "A.png") != place_of(tmp_path / "new" / "a.png")


def test_names_in_two_cases_are_one_where_the_file_system_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ab.png").touch()
    real = os.path.samefile

    def samefile(one: Path, other: Path) -> bool:
        return real(*(path.with_name(path.name.lower()) for path in (one, other)))

    monkeypatch.setattr(os.path, "samefile", samefile)
    _folds_case.cache_clear()
    try:
        assert place_of(tmp_path / "A.png") == place_of(tmp_path / "a.png")
        assert place_of(tmp_path / "new" / "deep" / "A.PNG") == place_of(tmp_path / "new" / "deep" / "a.png")
        assert place_of(tmp_path / "E\u0301.png") == place_of(tmp_path / "\u00e9.png"), "as macOS has it"
    finally:
        _folds_case.cache_clear()
