"""The pieces that EDSR and WDSR share: normalisation, normed convolutions, residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..config import ModelConfig


class Normalise(nn.Module):
    """``(x - mean) / std`` on RGB in [0, 1]; the network's zero padding therefore pads with the mean colour."""

    mean: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.std = config.std
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Denormalise(Normalise):
    """``x * std + mean``, the inverse of Normalise."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


class Scaling(nn.Module):
    """Residual scaling: multiplies a branch by a constant (EDSR, Lim et al. 2017, section 3.1)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def conv(config: ModelConfig, inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
    """A zero-padded convolution with the config's norm: weight norm on it, batch norm behind it, or none."""
    plain = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    if config.norm == "weight":
        normed: nn.Module = weight_norm(plain)
        return normed
    if config.norm == "batch":
        return nn.Sequential(plain, nn.BatchNorm2d(outputs))
    return plain


class Residual(nn.Module):
    """``x + res_scale * branch(x)``."""

    def __init__(self, config: ModelConfig, *branch: nn.Module) -> None:
        super().__init__()
        scaling = () if config.res_scale == 1 else (Scaling(config.res_scale),)
        self.branch = nn.Sequential(*branch, *scaling)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y
