"""Decoded images in memory-mapped files, so that no epoch decodes an image twice and none has to fit in memory.

An entry is a header (format, height, width, checksum) and the pixels. The checksum is of the image's identity, the
header and the pixels, and compared when a run opens the cache: what was cut, flipped, swapped or written by an older
version is made again, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from .._errors import InputError
from .._files import check_folder, open_regular, replacing, user_cache
from ..images.files import Rgb

_HEADER = struct.Struct("<4sII16s")
_MAGIC = b"RGB9"  # RGB8 had no checksum
_CHUNK = 1 << 20


class CacheError(InputError):
    """The cache itself cannot be written, or changed while it was read."""


def default_cache() -> Path:
    """``images`` in ``user_cache()``."""
    return user_cache() / "images"


class Stored(NamedTuple):
    """An image in the cache. It is mapped anew for each use: a mapping holds a file descriptor, and those are few."""

    path: Path
    height: int
    width: int

    @property
    def size(self) -> int:
        """Bytes of the entry."""
        return _HEADER.size + 3 * self.height * self.width

    def open(self) -> Rgb:
        """The pixels, uint8 HWC RGB, read from disk as they are touched; CacheError if the entry changed its size."""
        try:
            with open_regular(self.path) as file:
                if os.fstat(file.fileno()).st_size == self.size:  # else touching it could end the process
                    return np.memmap(file, np.uint8, "r", _HEADER.size, (self.height, self.width, 3))
        except OSError as error:
            raise CacheError(f"{self.path} cannot be read ({error.strerror or error}): run this again") from error
        raise CacheError(f"{self.path} was changed while it was in use: run this again, which mends it")


class ImageCache:
    """A folder of files, one for each image, named by the image's path, size and time of change.

    An entry that is damaged is made again; one of an image that has changed is never found. Threads and processes may
    share the folder, and make an image once. Delete it to have the space back.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        check_folder(self.folder)

    def keep(self, source: Path, what: str, make: Callable[[], Rgb]) -> Stored:
        """``make()``, uint8 HWC RGB, stored; made only if the cache has no sound ``what`` of ``source`` yet.

        Passes on what ``make`` raises. Raises CacheError if the disk is full or the folder cannot be written.
        """
        try:
            state = source.stat()
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}") from error
        text = f"{source.resolve()}|{state.st_size}|{state.st_mtime_ns}|{what}"
        identity = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        path = self.folder / f"{identity}.rgb"
        found = _sound(path, identity)
        if found is not None:
            return found
        with self._locked(identity):
            found = _sound(path, identity)  # another process may have made it meanwhile
            if found is not None:
                return found
            image = np.ascontiguousarray(make())
            height, width = image.shape[:2]
            try:
                with replacing(path) as fresh, open(fresh, "wb") as file:
                    checksum = _checksum(identity, height, width)
                    checksum.update(image.data)
                    file.write(_HEADER.pack(_MAGIC, height, width, checksum.digest()))
                    file.write(image.data)
            except InputError as error:
                raise CacheError(f"{error}: choose another folder with --cache") from error
            return Stored(path, height, width)

    @contextlib.contextmanager
    def _locked(self, identity: str) -> Iterator[None]:
        """Alone with one of 256 parts of the cache; the system lets go for a process that is killed."""
        from filelock import FileLock

        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, NotImplementedError):  # without locks, an image may be made twice
                (self.folder / "locks").mkdir(exist_ok=True)
                stack.enter_context(FileLock(self.folder / "locks" / identity[:2]))
            yield


def _checksum(identity: str, height: int, width: int) -> hashlib.blake2b:
    """To be updated with the pixels."""
    return hashlib.blake2b(f"{identity} {height} {width} ".encode(), digest_size=16)


def _sound(path: Path, identity: str) -> Stored | None:
    """The entry at ``path`` if it is whole, and of this image."""
    try:
        with open_regular(path) as file:
            magic, height, width, digest = _HEADER.unpack(file.read(_HEADER.size))
            found = Stored(path, height, width)
            whole = magic == _MAGIC and min(height, width) > 0 and os.fstat(file.fileno()).st_size == found.size
            return found if whole and _digest(file, identity, height, width) == digest else None
    except (OSError, struct.error):
        return None


def _digest(file: BinaryIO, identity: str, height: int, width: int) -> bytes:
    checksum = _checksum(identity, height, width)
    while chunk := file.read(_CHUNK):
        checksum.update(chunk)
    return checksum.digest()
