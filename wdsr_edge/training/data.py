"""Training images in memory and random patches from them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._errors import InputError
from ..images import list_images, read_rgb
from ..resampler import resize_bicubic

Rgb = NDArray[np.uint8]


class Pair(NamedTuple):
    """A low-resolution image and the ground truth it was made from, uint8 HWC RGB."""

    name: str
    lr: Rgb
    hr: Rgb


def load_pairs(folders: Iterable[str | os.PathLike[str]], scale: int, *, least: int = 1) -> list[Pair]:
    """Every image of ``folders`` as HR, cropped to a multiple of ``scale``, with its bicubic LR; sorted by path.

    Images whose LR is under ``least`` pixels a side are left out. Raises InputError if none remains.
    """
    pairs = []
    for path in (path for folder in folders for path in list_images(Path(folder))):
        hr = read_rgb(path)
        height, width = (side // scale * scale for side in hr.shape[:2])
        if min(height, width) >= least * scale:
            hr = np.ascontiguousarray(hr[:height, :width])
            pairs.append(Pair(path.stem, resize_bicubic(hr, 1 / scale), hr))  # type: ignore[arg-type]
    if not pairs:
        raise InputError(f"no image of at least {least * scale} pixels a side in {', '.join(map(str, folders))}")
    return pairs


def random_patches(pairs: Sequence[Pair], patch: int, batch: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``batch`` random LR crops of ``patch`` pixels a side with their HR crops, flipped and rotated at random.

    Float32 NCHW RGB in [0, 1]. The same ``seed`` gives the same patches, so a resumed run draws what it would have.
    """
    rng = np.random.default_rng(seed)
    lrs, hrs = [], []
    for index in rng.integers(len(pairs), size=batch):
        pair = pairs[index]
        scale = len(pair.hr) // len(pair.lr)
        top, left = (rng.integers(side - patch + 1) for side in pair.lr.shape[:2])
        turns, flip = rng.integers(4), rng.integers(2)
        for image, factor, patches in ((pair.lr, 1, lrs), (pair.hr, scale, hrs)):
            y, x, size = top * factor, left * factor, patch * factor
            crop = np.rot90(image[y : y + size, x : x + size], turns)
            patches.append(crop[:, ::-1] if flip else crop)
    return to_tensor(np.stack(lrs)), to_tensor(np.stack(hrs))


def to_tensor(batch: Rgb) -> Tensor:
    """uint8 NHWC to float32 NCHW in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))).float() / 255


def to_image(batch: Tensor) -> Rgb:
    """Float NCHW in [0, 1] to uint8 NHWC, rounded and clipped."""
    levels = (batch.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
    image: Rgb = levels.permute(0, 2, 3, 1).contiguous().numpy()
    return image
