"""A file or a folder put where another lies: at once where the system can do it, else in two steps that are healed.

Linux has renameat2 with RENAME_EXCHANGE since 3.15 (man 2 rename; not every file system), macOS renamex_np with
RENAME_SWAP since 10.12 (man 2 renamex_np). Windows has no such call for folders.
"""

from __future__ import annotations

import ctypes
import glob
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 2.0
"""After so long, whoever exchanged two folders in two steps was killed between them."""

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between attempts on Windows, where a virus scanner or an indexer may have a new file open for a moment."""


def put(fresh: Path, target: Path) -> None:
    """Move ``fresh`` to ``target``; a folder that lay there is then ``fresh``, or its ``.old``. OSError.

    ``target`` is a file's name for a file and a folder's for a folder. Both lie on one file system.
    """
    if not fresh.is_dir():
        _patiently(os.replace, fresh, target)
    elif not os.path.lexists(target):
        _patiently(os.rename, fresh, target)
    elif not swap(fresh, target):
        old = _old(fresh.parent, target)
        _patiently(os.rename, target, old)
        try:
            _patiently(os.rename, fresh, target)
        except BaseException:
            if not os.path.lexists(target):
                os.rename(old, target)
            raise


def swap(one: Path, other: Path) -> bool:
    """Exchange two files or folders at once; False, and nothing done, where that cannot be done."""
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "linux":
            return bool(ctypes.CDLL(None).renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) == 0)
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(first, second, _RENAME_SWAP) == 0)
    except (OSError, AttributeError):  # an older C library
        pass
    return False


def heal(target: Path) -> bool:
    """Put a folder back that a process which was killed in the middle of ``put`` had moved away.

    Waits for one that is still at it. Returns whether a folder lies at ``target`` now.
    """
    while not os.path.lexists(target):
        try:
            left = [old for scratch in scratches(target) if (old := _old(scratch, target)).is_dir()]
            if not left:
                return False
            if all(time.time() - old.parent.stat().st_mtime > PATIENCE_S for old in left):
                os.rename(max(left, key=lambda old: old.parent.stat().st_mtime), target)
            else:
                time.sleep(0.02)
        except FileNotFoundError:  # it was finished meanwhile
            continue
        except OSError:
            return False
    return True


def scratch_prefix(name: str) -> str:
    """Prefix of a temporary folder for writing ``name``; short enough in bytes, whatever the letters."""
    front = name[:64]
    while len(os.fsencode(front)) > 200:
        front = front[:-1]
    return f".{front}."


def scratches(target: Path) -> list[Path]:
    """The folders in which ``target`` is being written, or was when a process was killed."""
    return list(target.parent.glob(f"{glob.escape(scratch_prefix(target.name))}*"))


def _old(scratch: Path, target: Path) -> Path:
    return scratch / f"{target.name[:200]}.old"


def _patiently(move: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    for pause in _PAUSES if sys.platform == "win32" else ():
        try:
            return move(source, target)
        except PermissionError:
            time.sleep(pause)
    return move(source, target)
