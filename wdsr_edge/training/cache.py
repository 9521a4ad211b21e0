"""Decoded images in memory-mapped files, so that no epoch decodes an image twice and none has to fit in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .._errors import InputError
from .._files import check_folder, replacing
from ..images import Rgb


class CacheError(InputError):
    """The cache itself cannot be written."""


def default_cache() -> Path:
    """``wdsr-edge/images`` in the user's cache folder (``$XDG_CACHE_HOME``, else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wdsr-edge" / "images"


class ImageCache:
    """A folder of ``.npy`` files, one for each image, named by the image's path, size and time of change.

    An entry that is damaged is made again; one of an image that has changed is never found. Several processes may
    share the folder. Delete it to have the space back.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        check_folder(self.folder)

    def keep(self, source: Path, what: str, make: Callable[[], Rgb]) -> Rgb:
        """``make()``, uint8 HWC RGB, memory-mapped; made only if the cache has no ``what`` of ``source`` yet.

        Passes on what ``make`` raises. Raises CacheError if the disk is full or the folder cannot be written.
        """
        try:
            state = source.stat()
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}") from error
        identity = f"{source.resolve()}|{state.st_size}|{state.st_mtime_ns}|{what}"
        path = self.folder / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npy"
        found = _open(path)
        if found is None:
            image = make()
            try:
                with replacing(path) as fresh:
                    np.save(fresh, image, allow_pickle=False)
            except InputError as error:
                raise CacheError(f"{error}: choose another folder with --cache") from error
            found = _open(path)
        return image if found is None else found


def _open(path: Path) -> Rgb | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 else None
