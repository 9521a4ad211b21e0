"""The photos that ship with the package, for those who bring none of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .files import Rgb, read_rgb
from .folders import list_images

PHOTOS = Path(__file__).parent / "photos"


def sample_frames(source: Path | None = None) -> dict[str, Rgb]:
    """File name to uint8 HWC RGB of a photo, of every photo in a folder, or of the shipped ones."""
    return {path.name: read_rgb(path) for path in list_images(source or PHOTOS)}


def frame_of_size(height: int, width: int) -> Rgb:
    """A uint8 [height, width, 3] frame of real picture content: a photo, mirrored at its edges as often as it takes."""
    photo = read_rgb(PHOTOS / "coffee.png")
    pads = ((0, max(0, height - photo.shape[0])), (0, max(0, width - photo.shape[1])), (0, 0))
    return np.ascontiguousarray(np.pad(photo, pads, "symmetric")[:height, :width])


def golden_frame() -> Rgb:
    """The LR frame of every bundle's golden pair: uint8 [96, 128, 3], edges, gradients and colour."""
    return np.ascontiguousarray(read_rgb(PHOTOS / "coffee.png")[150:246, 180:308])
