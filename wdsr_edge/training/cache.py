"""Decoded images in memory-mapped files, so that no epoch decodes an image twice and none has to fit in memory."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._errors import InputError
from .._files import check_folder, replacing, user_cache
from ..images import Rgb

_HEADER = struct.Struct("<4sII")
_MAGIC = b"RGB8"


class CacheError(InputError):
    """The cache itself cannot be written."""


def default_cache() -> Path:
    """``images`` in ``user_cache()``."""
    return user_cache() / "images"


class Stored(NamedTuple):
    """An image in the cache. It is mapped anew for each use: a mapping holds a file descriptor, and those are few."""

    path: Path
    height: int
    width: int

    def open(self) -> Rgb:
        """The pixels, uint8 HWC RGB, read from disk as they are touched."""
        shape = (self.height, self.width, 3)
        return np.memmap(self.path, np.uint8, "r", _HEADER.size, shape)


class ImageCache:
    """A folder of files, one for each image, named by the image's path, size and time of change.

    An entry that is damaged is made again; one of an image that has changed is never found. Several processes may
    share the folder. Delete it to have the space back.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        check_folder(self.folder)

    def keep(self, source: Path, what: str, make: Callable[[], Rgb]) -> Stored:
        """``make()``, uint8 HWC RGB, stored; made only if the cache has no ``what`` of ``source`` yet.

        Passes on what ``make`` raises. Raises CacheError if the disk is full or the folder cannot be written.
        """
        try:
            state = source.stat()
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}") from error
        identity = f"{source.resolve()}|{state.st_size}|{state.st_mtime_ns}|{what}"
        path = self.folder / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.rgb"
        found = _stored(path)
        if found is None:
            image = make()
            try:
                with replacing(path) as fresh, open(fresh, "wb") as file:
                    file.write(_HEADER.pack(_MAGIC, *image.shape[:2]))
                    file.write(np.ascontiguousarray(image).data)
            except InputError as error:
                raise CacheError(f"{error}: choose another folder with --cache") from error
            found = Stored(path, *image.shape[:2])
        return found


def _stored(path: Path) -> Stored | None:
    """The entry at ``path`` if it is one, and as long as its header says."""
    try:
        with open(path, "rb") as file:
            magic, height, width = _HEADER.unpack(file.read(_HEADER.size))
            size = os.fstat(file.fileno()).st_size
    except (OSError, struct.error):
        return None
    whole = magic == _MAGIC and min(height, width) > 0 and size == _HEADER.size + 3 * height * width
    return Stored(path, height, width) if whole else None
