"""PSNR and SSIM against ground truth, as super-resolution papers report them. Works without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

from ._errors import InputError
from .data.pairs import Pair
from .images.files import Rgb
from .metrics import psnr, ssim

Upscale = Callable[[Rgb], Rgb]
"""uint8 HWC RGB to the same, ``scale`` times as large."""


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
    ssim_rgb: float
    """Structural similarity, mean over R, G and B."""


def self_ensemble(upscale: Upscale) -> Upscale:
    """The mean of ``upscale`` over the eight flips and rotations of a frame (EDSR, Lim et al. 2017, section 3.4)."""

    def ensemble(frame: Rgb) -> Rgb:
        total = np.zeros(())
        for turns in range(4):
            for flip in (1, -1):
                turned = np.ascontiguousarray(np.rot90(frame, turns)[:, ::flip])
                total = total + np.rot90(upscale(turned)[:, ::flip], -turns)
        return np.floor(total / 8 + 0.5).astype(np.uint8)

    return ensemble


def evaluate(upscale: Upscale, pairs: Iterable[Pair]) -> list[Score]:
    """A score for each pair: ``upscale(pair.lr)`` against ``pair.hr``, the scale shaved off the borders."""
    return [score(pair, upscale(pair.lr)) for pair in pairs]


def psnr_y(pair: Pair, sr: Rgb) -> float:
    """PSNR on luma of ``sr`` against ``pair.hr``, the scale shaved off the borders."""
    return psnr(sr, pair.hr, shave=len(pair.hr) // len(pair.lr), luma=True)


def score(pair: Pair, sr: Rgb) -> Score:
    """The figures of ``sr`` against ``pair.hr``, the scale shaved off the borders. InputError if too small for SSIM."""
    shave = len(pair.hr) // len(pair.lr)
    try:
        rgb = psnr(sr, pair.hr, shave=shave)
        ssims = (ssim(sr, pair.hr, shave=shave, luma=luma) for luma in (True, False))
        return Score(pair.name, psnr_y(pair, sr), rgb, *ssims)
    except InputError as error:
        raise InputError(f"{pair.name}: {error}") from error


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of each figure over images, as papers print it."""
    columns = zip(*(astuple(score)[1:] for score in scores), strict=True)
    return Score("mean", *(float(np.mean(column)) for column in columns))
