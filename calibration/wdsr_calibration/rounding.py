"""Kernels that round well: each is learned through its own rounding, by the picture that the quantised network makes.

AdaRound (Nagel et al. 2020, arXiv:2004.10568) and BRECQ (Li et al. 2021, arXiv:2102.05426) choose for each weight
between the two nearest codes, layer by layer or block by block. These networks are small enough to take as one block:
all kernels at once, against the unquantised network's output, the rounding passing its gradient through. What it gains,
and what learning scales and biases in the same way does not, is in calibration/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .network import Network


@dataclass(frozen=True)
class RoundingConfig:
    """How ``round_kernels`` goes about it."""

    steps: int = 200
    """Optimiser steps; 0 leaves every weight at its nearest code."""
    batch: int = 4
    """Crops for each step."""
    rate: float = 1e-4
    """Adam's learning rate, going to 0 by a cosine."""
    seed: int = 0
    """Which crops, and how they are turned."""


def round_kernels(
    network: Network,
    target: nn.Module,
    crops: Sequence[Tensor],
    config: RoundingConfig,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Change the kernels that ``network`` quantises so that it gives what ``target`` does on ``crops``.

    ``crops``: float32 [1, 3, S, S] each, in [0, 1], all of one size. No ground truth is used. Deterministic for a seed
    and a number of threads.
    """
    kernels = [conv.weight.requires_grad_() for conv in network.convs.values() if conv.quantised]
    if not kernels or not config.steps:
        return
    optimiser = torch.optim.Adam(kernels, lr=config.rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / config.steps))
    )
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        picked = torch.randint(len(crops), (config.batch,), generator=generator).tolist()
        batch = torch.cat([_turned(crops[i], int(torch.randint(8, (), generator=generator))) for i in picked])
        with torch.no_grad():
            expected = target(batch)
        error = (network(batch) - expected).mul(255).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        schedule.step()
        on_step(step + 1)
    for kernel in kernels:
        kernel.requires_grad_(False).grad = None


def _turned(crop: Tensor, way: int) -> Tensor:
    """One of the eight ways to turn and flip a square crop."""
    turned = torch.rot90(crop, way % 4, (2, 3))
    return turned.flip(3) if way >= 4 else turned
