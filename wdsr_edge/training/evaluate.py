"""PSNR and SSIM against ground truth, as super-resolution papers report them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..metrics import psnr, ssim
from .data import Pair, to_image, to_tensor

Upscale = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


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


def evaluate(upscale: Upscale, pairs: Sequence[Pair]) -> list[Score]:
    """A score for each pair: ``upscale(pair.lr)`` against ``pair.hr``, the scale shaved off the borders."""
    scores = []
    for pair in pairs:
        shave = len(pair.hr) // len(pair.lr)
        sr = upscale(pair.lr)
        scores.append(
            Score(
                pair.name,
                psnr(sr, pair.hr, shave=shave, luma=True),
                psnr(sr, pair.hr, shave=shave),
                ssim(sr, pair.hr, shave=shave, luma=True),
            )
        )
    return scores


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of each figure over images, as papers print it."""
    columns = zip(*((score.psnr_y, score.psnr_rgb, score.ssim_y) for score in scores), strict=True)
    return Score("mean", *(float(np.mean(column)) for column in columns))


def torch_upscale(model: nn.Module) -> Upscale:
    """The PyTorch reference as ``uint8 HWC -> uint8 HWC``: float32, rounded half to even, clipped."""

    @torch.inference_mode()
    def upscale(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        model.eval()
        return to_image(model(to_tensor(frame[None])))[0]

    return upscale
