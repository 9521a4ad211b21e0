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


class Branches(nn.Module):
    """Adds to a kernel [O, I, K, K] what parallel branches would: a parametrization, for training alone.

    A 1x1 convolution followed by a KxK one, a 1x1 one, and 1x1 ones followed by fixed edge filters (Sobel's two and
    Laplace's), as in ECBSR (Zhang et al. 2021, "Edge-oriented Convolution Block for Real-time Super Resolution on
    Mobile Devices"). They are summed before the convolution, as in SESR (Bhardwaj et al. 2021, arXiv:2103.09404),
    which costs a product of small matrices. New branches add nothing.
    """

    filters: Tensor

    def __init__(self, outputs: int, inputs: int, size: int) -> None:
        super().__init__()
        between = 2 * inputs
        self.mix = nn.Parameter(torch.randn(between, inputs) / inputs**0.5)
        self.spread = nn.Parameter(torch.zeros(outputs, between, size, size))
        self.centre = nn.Parameter(torch.zeros(outputs, inputs))
        self.edges = nn.Parameter(torch.zeros(3, outputs, inputs))
        across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
        filters = torch.stack([across, across.T, laplace])
        self.register_buffer("filters", nn.functional.pad(filters, [(size - 3) // 2] * 4), persistent=False)

    def forward(self, kernel: Tensor) -> Tensor:
        added = torch.einsum("omyx,mi->oiyx", self.spread, self.mix)
        added = added + torch.einsum("foi,fyx->oiyx", self.edges, self.filters)
        middle = kernel.shape[-1] // 2
        return kernel + added + nn.functional.pad(self.centre[:, :, None, None], [middle] * 4)


class Residual(nn.Module):
    """``x + res_scale * branch(x)``."""

    def __init__(self, config: ModelConfig, *branch: nn.Module) -> None:
        super().__init__()
        scaling = () if config.res_scale == 1 else (Scaling(config.res_scale),)
        self.branch = nn.Sequential(*branch, *scaling)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y
