"""Writing so that an interrupted run leaves the old file or none, and reading TOML."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._errors import InputError, require


@contextmanager
def replacing(path: str | os.PathLike[str], *, directory: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (a new directory, or a file to be made), renamed to it on success.

    Parents are created. On any exception the temporary one is removed and ``path`` stays as it was.
    """
    target = Path(path)
    name = target.name
    if not name or name == ".." or "\0" in str(target) or len(os.fsencode(name)) > 255:
        raise InputError(f"{str(path)[:100]!r} is no name for a file: choose another")
    if target.is_dir() and not directory:
        raise InputError(f"{target} is a directory: name a file in it")
    scratch = _scratch(target.parent, f".{name[:64]}.", target)
    fresh, old = scratch / name, scratch / f"{name[:200]}.old"
    try:
        if directory:
            fresh.mkdir()
        yield fresh
        try:
            if directory and target.exists():
                target.rename(old)
            fresh.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(paths: Iterable[Path]) -> None:
    """Remove what processes that were killed left of writing ``paths``; for a folder that only this one writes to."""
    for path in paths:
        for scratch in path.parent.glob(f".{glob.escape(path.name[:64])}.*"):
            shutil.rmtree(scratch, ignore_errors=True)


def check_folder(path: Path, *, keep: bool = True) -> None:
    """Create folder ``path`` and see that it can be written to; InputError if not. For use before long work.

    ``keep=False`` leaves no folder where there was none.
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)[:100]!r} is no name for a folder: choose another")
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
        found = folder.stat()
        if found.st_uid != os.getuid():
            raise InputError(f"{folder} belongs to another user, who could put native code there: name another")
        if stat.S_IMODE(found.st_mode) & 0o022 and any(folder.iterdir()):
            raise InputError(f"others can write to {folder}, perhaps native code: remove what is in it")
        folder.chmod(0o700)
    except OSError as error:
        raise InputError(f"cannot keep engines in {folder}: {error.strerror}") from error
    return folder


def read_regular(path: Path, most: int = -1) -> bytes:
    """What a file holds, ``most`` bytes of it at most; OSError for a pipe or a device, which could go on for ever."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(most)


def user_cache() -> Path:
    """``wdsr-edge`` in the user's cache folder (``$XDG_CACHE_HOME``, else ``~/.cache``)."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wdsr-edge"
    except RuntimeError as error:
        raise InputError("there is no home folder to keep a cache in: set XDG_CACHE_HOME") from error


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file's table; InputError if it cannot be read."""
    toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", "train")
    try:
        values: dict[str, Any] = toml.loads(Path(path).read_text(encoding="utf-8"))
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
