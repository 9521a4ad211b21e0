"""Loss functions."""

from __future__ import annotations

import torch
from torch import Tensor

from .recipe import Loss

CHARBONNIER_EPSILON = 1 / 255


def distance(loss: Loss, sr: Tensor, target: Tensor) -> Tensor:
    """Mean distance of two float images in [0, 1]; Charbonnier's as in LapSRN (Lai et al. 2017), epsilon one level."""
    difference = sr.float() - target
    if loss == "l1":
        return difference.abs().mean()
    if loss == "l2":
        return difference.square().mean()
    return torch.sqrt(difference.square() + CHARBONNIER_EPSILON**2).mean()
