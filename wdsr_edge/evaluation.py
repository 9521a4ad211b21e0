"""PSNR and SSIM against ground truth, as super-resolution papers report them. Works without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._errors import InputError
from .images import Rgb, list_images, read_rgb
from .metrics import psnr, ssim
from .resampler import resize_bicubic

Upscale = Callable[[Rgb], Rgb]
"""uint8 HWC RGB to the same, ``scale`` times as large."""


class Pair(NamedTuple):
    """A low-resolution image and the ground truth it was made from, uint8 HWC RGB."""

    name: str
    lr: Rgb
    hr: Rgb


@dataclass(frozen=True)
class Score:
    """Figures of one image, or their mean over images."""

    name: str
    psnr_y: float
    """dB on BT.601 luma."""
    psnr_rgb: float
    """dB on RGB."""
    ssim_y: float
    """Structural similarity on luma."""


def load_pairs(
    folders: Iterable[str | os.PathLike[str]],
    scale: int,
    *,
    least: int = 0,
    on_left_out: Callable[[Path], None] = lambda path: None,
) -> list[Pair]:
    """Every image of ``folders`` as HR, cropped to a multiple of ``scale``, with its bicubic LR; sorted by path.

    Images whose LR is under ``least`` pixels a side (by default, and at the least, what SSIM needs) are left out, and
    told to ``on_left_out``. Raises InputError if none remains.
    """
    least = max(least, -(-11 // scale) + 2)
    folders = list(folders)
    pairs = []
    for path in (path for folder in folders for path in list_images(Path(folder))):
        hr = read_rgb(path)
        height, width = (side // scale * scale for side in hr.shape[:2])
        if min(height, width) >= least * scale:
            hr = np.ascontiguousarray(hr[:height, :width])
            pairs.append(Pair(path.stem, bicubic(hr, 1 / scale), hr))
        else:
            on_left_out(path)
    if not pairs:
        raise InputError(f"no image of at least {least * scale} pixels a side in {', '.join(map(str, folders))}")
    return pairs


def bicubic(image: Rgb, scale: float) -> Rgb:
    """``resize_bicubic`` of a uint8 image, the baseline of every table."""
    return resize_bicubic(image, scale)


def evaluate(upscale: Upscale, pairs: Iterable[Pair]) -> list[Score]:
    """A score for each pair: ``upscale(pair.lr)`` against ``pair.hr``, the scale shaved off the borders."""
    scores = []
    for name, lr, hr in pairs:
        shave = len(hr) // len(lr)
        sr = upscale(lr)
        try:
            luma = psnr(sr, hr, shave=shave, luma=True)
            scores.append(Score(name, luma, psnr(sr, hr, shave=shave), ssim(sr, hr, shave=shave, luma=True)))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return scores


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of each figure over images, as papers print it."""
    columns = zip(*((score.psnr_y, score.psnr_rgb, score.ssim_y) for score in scores), strict=True)
    return Score("mean", *(float(np.mean(column)) for column in columns))
