"""Writing so that an interrupted run leaves the old file or none, and reading TOML."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ._errors import InputError, require
from ._exchange import heal, put, scratch_prefix, scratches

_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.I
)
"""Names that mean a device on Windows, whatever their suffix."""

LARGEST = 4 << 30
"""Bytes that ``read_regular`` takes into memory."""
LARGEST_TEXT = 64 << 20
"""Bytes of a text file that a person or a program of ours wrote."""


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, directory: bool = False, like: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (a new directory, or a file to be made), renamed to it on success.

    Parents are created. On any exception the temporary one is removed and ``path`` stays as it was. A file gets its
    permissions as ``cp`` would give them to a copy of file ``like``: those of ``like`` without what the umask takes
    away, or those that ``path`` had. Without ``like`` they are a new file's.
    """
    target = Path(path)
    name = target.name
    check_name(target)
    if target.is_dir() and not directory:
        raise InputError(f"{target} is a directory: name a file in it")
    if not directory and target.exists() and not target.is_file():
        raise InputError(f"{target} is a pipe or a device, which would be replaced: name a file")
    scratch = _scratch(target.parent, scratch_prefix(name), target)
    fresh = scratch / name
    try:
        if directory:
            heal(target)
            fresh.mkdir()
        mode = None if like is None else _mode_like(Path(like), target, fresh)
        yield fresh
        if mode is not None:
            with suppress(OSError):  # a file system without permissions
                fresh.chmod(mode)
        put(fresh, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mode_like(source: Path, target: Path, fresh: Path) -> int | None:
    """The permissions of a copy of ``source`` at ``target``; ``fresh`` is where it can be tried. None: unknown."""
    with suppress(OSError):
        if target.exists():
            return stat.S_IMODE(target.stat().st_mode) & 0o777
        # Only the system knows the umask, and the access list of the folder, without setting it for all threads.
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IMODE(source.stat().st_mode) & 0o777))
        mode = stat.S_IMODE(fresh.stat().st_mode)
        fresh.chmod(0o600)  # or Windows does not let go of a read-only one
        fresh.unlink()
        return mode
    return None


def check_name(path: Path) -> None:
    """InputError if no file or folder can have the name of ``path`` on this system."""
    name = path.name
    if not name or name == ".." or "\0" in str(path) or len(os.fsencode(name)) > 255:
        raise InputError(f"{str(path)[:100]!r} is not a name for a file: choose another")
    if sys.platform == "win32" and any(map(_refused_by_windows, path.parts[path.anchor != "" :])):
        raise InputError(f"{str(path)[:100]!r} is not a name for a file on Windows: choose another")


def place_of(path: Path) -> str:
    """Canonical form of a path, so that two names for one file compare equal: through links, in another case."""
    try:
        found = path.resolve()
    except (OSError, RuntimeError):  # no name for a file, or links in a circle, which is said when it is opened
        found = path.absolute()
    return unicodedata.normalize("NFC", str(found)).casefold() if _folds_case(found.parent) else str(found)


@lru_cache(1024)
def _folds_case(folder: Path) -> bool:
    """True if ``a`` and ``A`` are one name in a folder, as on Windows and macOS usually; told by what lies there."""
    try:
        names = next(([name] for name in os.listdir(folder) if name != name.swapcase()), [])
        for name in names:
            return os.path.samefile(folder / name, folder / name.swapcase())
        if folder.name != folder.name.swapcase():
            return os.path.samefile(folder, folder.with_name(folder.name.swapcase()))
    except OSError:  # there is no such folder yet, or no such name
        if folder.is_dir():
            return False
    return folder.parent != folder and _folds_case(folder.parent)


def is_device_name(name: str) -> bool:
    """True if ``name``, of a file, means a device on Windows: ``con``, ``NUL.png``, ``com1.onnx``."""
    return _DEVICE.fullmatch(name) is not None


def _refused_by_windows(name: str) -> bool:
    """learn.microsoft.com/windows/win32/fileio/naming-a-file."""
    unusual = any(letter in '<>:"/\\|?*' or letter < " " for letter in name)
    return unusual or is_device_name(name) or (name[-1] in ". " and name not in (".", ".."))


def sweep(paths: Iterable[Path]) -> None:
    """Remove what processes that were killed left of writing ``paths``; for a folder that only this one writes to."""
    for path in paths:
        for scratch in scratches(path):
            shutil.rmtree(scratch, ignore_errors=True)


def check_folder(path: Path, *, keep: bool = True) -> None:
    """Create folder ``path`` and see that it can be written to; InputError if not. For use before long work.

    ``keep=False`` leaves no folder where there was none.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)[:100]!r} is not a name for a folder: choose another")
    gone = not keep and not path.is_dir()
    shutil.rmtree(_scratch(path, ".check.", path))
    if gone:
        path.rmdir()


def private_folder(path: str | os.PathLike[str]) -> Path:
    """Folder ``path``, made if need be, for engines: native code, which its owner alone may read and write.

    Raises InputError if it cannot be had for its owner alone.
    """
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):  # Windows has neither owners nor modes here, but folders in a profile are its user's
            found = folder.stat()
            if found.st_uid != os.getuid():
                raise InputError(f"{folder} belongs to another user, who could put native code there: name another")
            if stat.S_IMODE(found.st_mode) & 0o022 and any(folder.iterdir()):
                raise InputError(f"others can write to {folder}, perhaps native code: remove what is in it")
            folder.chmod(0o700)
    except OSError as error:
        raise InputError(f"cannot keep engines in {folder}: {error.strerror}") from error
    return folder


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file opened for reading; OSError for a folder, a pipe or a device, which could block or never end.

    What a user names is opened here, never by ``open``. ``/dev/stdin`` works where it is a redirected file.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file")
    return file


def read_regular(path: str | os.PathLike[str], most: int = LARGEST) -> bytes:
    """Content of a regular file of at most ``most`` bytes; OSError as ``open_regular``, and if it is larger."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB" if most >> 20 else f"it is over {most} bytes")
    return data


def read_text(path: str | os.PathLike[str], most: int = LARGEST_TEXT) -> str:
    """A regular file of at most ``most`` bytes as text; raises as ``read_regular``, UnicodeDecodeError if not UTF-8."""
    return read_regular(path, most).decode("utf-8-sig")


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise what ``open_regular`` raises; for use before a library opens ``path`` by its name."""
    open_regular(path).close()


def user_cache() -> Path:
    """``wdsr-edge`` in ``$XDG_CACHE_HOME`` if that is set, else in the folder that the system has for caches.

    That is ``~/.cache`` on Linux, ``~/Library/Caches`` on macOS and ``%LOCALAPPDATA%`` on Windows.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "wdsr-edge"
    if sys.platform in ("win32", "darwin"):
        import platformdirs

        return platformdirs.user_cache_path("wdsr-edge", appauthor=False)
    try:
        return Path.home() / ".cache" / "wdsr-edge"
    except RuntimeError as error:
        raise InputError("there is no home folder to keep a cache in: set XDG_CACHE_HOME") from error


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file's table; InputError if it cannot be read."""
    toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", "train")
    try:
        values: dict[str, Any] = toml.loads(read_text(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML ({error})") from error
    return values


def _scratch(folder: Path, prefix: str, what: Path) -> Path:
    """A new folder in ``folder``, for writing ``what``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"cannot write {what}: {folder} or a parent of it is a file, not a folder") from error
    except OSError as error:
        raise InputError(f"cannot write {what}: {error.strerror}") from error
