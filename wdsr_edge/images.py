"""Image files in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})


def list_images(path: Path) -> list[Path]:
    """The image files in folder ``path``, sorted by name, or ``path`` itself if it is a file."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())
    if not found:
        raise InputError(f"{path}: no images ({' '.join(sorted(SUFFIXES))}) in this folder")
    return found


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 HWC RGB."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from error
