"""Kernels, scales and channel factors learned through their own rounding, by the picture that comes out.

AdaRound (Nagel et al. 2020, arXiv:2004.10568) and BRECQ (Li et al. 2021, arXiv:2102.05426) choose for each weight
between the two nearest codes, layer by layer or block by block. These networks are small enough to take as one block:
all at once, rounding passing its gradient through. With the kernels go the scales (LSQ, Esser et al. 2020,
arXiv:1902.08153) and the factors between channels that ``equalisation`` leaves free.

Each crop counts by what it may lose: what a step adds to the squared error, as a share of what the budget lets it add
to the error that the unquantised network makes there. That is the drop in dB, to first order, so that smooth crops and
text, photographs and flats weigh as the budget has them. The reference is the unquantised network's picture, and the
ground truth by ``truth``: where rounding must move a pixel, it had better move it towards the truth. What each gains is
in calibration/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from wdsr_edge.data.pairs import Pair
from wdsr_edge.models.reference import to_tensor

from .drop import EXACT_DB, Budget
from .network import Network
from .samples import PHOTOGRAPHS, Contents

_LUMA = torch.tensor([0.257, 0.504, 0.098]).view(1, 3, 1, 1) * 255 / 219
"""BT.601 luma of studio range, in levels of 219 brought to 255: what the budget is measured on."""
_COLOUR_SHARE = 0.3
"""Weight of the RGB error next to that of luma, so that colours stay."""
POWER = 1.75
"""Of what each crop loses, so that the budget of the worst picture counts next to that of the mean."""
_HARD = ("text", "screentone", "screentone")
"""Drawn kinds that lose most: text comes twice as often as others, screentone three times."""
_LEAST_ERROR = 6.0
"""Mean squared error, levels, that every photograph is taken to have at least: some crops are almost flat."""


@dataclass(frozen=True)
class LearningConfig:
    """Options of ``learn``."""

    steps: int = 2500
    """Optimiser steps; 0 leaves every weight at its nearest code and every scale as it was found."""
    batch: int = 9
    """Crops for each step, five in nine of them drawn."""
    rate: float = 2e-4
    """Adam's learning rate of kernels and biases, going to 0 by a cosine."""
    scale_rate: float = 1e-2
    """The same of the base 2 logarithms of scales and channel factors."""
    truth: float = 1.5
    """Weight of the error of photographs to ground truth, relative to that to the unquantised network."""
    truth_drawn: float = 0.6
    """The same of drawn pictures, which the unquantised network has never seen: there is more to gain, at the expense
    of photographs."""
    seed: int = 0
    """Which crops, and how they are turned."""
    compile: bool = False
    """Run the network through torch.compile: twice as fast for WDSR-B, and other last digits."""


class _Crop(NamedTuple):
    lr: Tensor
    hr: Tensor
    tolerance: Tensor
    """Mean squared error, levels, that the budget lets it gain: of R, G and B, and of luma."""
    truth: float


def learn(
    network: Network,
    target: nn.Module,
    crops: Contents,
    budget: Budget,
    config: LearningConfig,
    *,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Change what ``network`` quantises, as it is placed, so that it gives what ``target`` does on ``crops``.

    ``crops``: uint8 pairs of one size. Deterministic for a seed and a number of threads.
    """
    convs = [conv for conv in network.convs.values() if conv.quantised]
    if not convs or not config.steps:
        return
    kernels = [parameter.requires_grad_() for conv in convs for parameter in conv.parameters()]
    used = {edge.quantiser for edge in network.edges.values() if edge.quantised}
    exponents = [quantiser.exponent.requires_grad_() for quantiser in network.tensors.values() if quantiser in used]
    factors = [torch.zeros(network.convs[group.producers[0]].out_channels).requires_grad_() for group in network.groups]
    optimiser = torch.optim.Adam(
        [
            {"params": kernels, "lr": config.rate},
            {"params": [*exponents, *factors], "lr": config.scale_rate},
        ],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config.steps))
    pools = _pools(target, crops, budget, config)
    random = np.random.default_rng(config.seed)
    forward = torch.compile(network) if config.compile else network
    for step in range(config.steps):
        picked = _picked(pools, config.batch, random)
        way = int(random.integers(8))
        lr = _turned(torch.cat([crop.lr for crop in picked]), way)
        hr = _turned(torch.cat([crop.hr for crop in picked]), way)
        with torch.no_grad():
            expected = target(lr)
        _divide(network, [factor.exp2() for factor in factors])
        found = forward(lr)
        tolerance = torch.stack([crop.tolerance for crop in picked])
        truth = torch.tensor([crop.truth for crop in picked])
        error = _share(found - expected, tolerance) ** POWER + truth * _share(found - hr, tolerance)
        optimiser.zero_grad()
        error.mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        on_step(step + 1)
    for parameter in (*kernels, *exponents, *factors):
        parameter.requires_grad_(False).grad = None
    _divide(network, [factor.exp2() for factor in factors])
    for conv in network.convs.values():
        conv.settle()


def _divide(network: Network, factors: Sequence[Tensor]) -> None:
    """Let the channels of each group be divided by its factors where they are made, and multiplied where read."""
    for group, factor in zip(network.groups, factors, strict=True):
        for name in group.producers:
            network.convs[name].outputs_by = factor
        for name in group.consumers:
            network.convs[name].inputs_by = factor


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _pools(
    target: nn.Module, crops: Contents, budget: Budget, config: LearningConfig
) -> tuple[list[_Crop], list[list[_Crop]]]:
    """The photographs, and each drawn kind, as tensors with what they may lose; those of _HARD more than once."""
    pools = {
        content: [_crop(target, pair, content, budget, config) for pair in pairs] for content, pairs in crops.items()
    }
    drawn = [content for content in pools if content != PHOTOGRAPHS]
    return pools[PHOTOGRAPHS], [pools[kind] for kind in (*drawn, *(kind for kind in _HARD if kind in pools))]


def _crop(target: nn.Module, pair: Pair, content: str, budget: Budget, config: LearningConfig) -> _Crop:
    lr, hr = to_tensor(pair.lr[None]), to_tensor(pair.hr[None])
    (error,) = _errors(target(lr).clamp(0, 1) - hr)
    if content == PHOTOGRAPHS:
        return _Crop(lr, hr, _gain(budget.photographs_db) * error.clamp(min=_LEAST_ERROR), config.truth)
    if error[1] < 255**2 / 10 ** (EXACT_DB / 10):
        return _Crop(lr, hr, torch.full((2,), 255**2 / 10 ** (budget.to_fp32_db / 10) / 2), 0.0)
    return _Crop(lr, hr, _gain(budget.drawn_db) * error, config.truth_drawn)


def _gain(drop_db: float) -> float:
    """By which share of itself an error grows when PSNR drops so much."""
    return 10 ** (max(drop_db, 0.005) / 10) - 1


def _picked(pools: tuple[list[_Crop], list[list[_Crop]]], count: int, random: np.random.Generator) -> list[_Crop]:
    photographs, kinds = pools
    some = [kinds[int(random.integers(len(kinds)))] for _ in range(count * 5 // 9)] if kinds else []
    return [pool[int(random.integers(len(pool)))] for pool in (*([photographs] * (count - len(some))), *some)]


def _errors(difference: Tensor) -> Tensor:
    """Mean squared errors of each image, levels: of R, G and B, and of luma."""
    levels = difference * 255
    luma = (levels * _LUMA).sum(1)
    return torch.stack([levels.square().mean((1, 2, 3)), luma.square().mean((1, 2))], 1)


def _share(difference: Tensor, tolerance: Tensor) -> Tensor:
    """The errors of each image as a share of what it may gain: of luma mostly."""
    shares = _errors(difference) / tolerance
    return _COLOUR_SHARE * shares[:, 0] + (1 - _COLOUR_SHARE) * shares[:, 1]


def _turned(crops: Tensor, way: int) -> Tensor:
    """One of the eight ways to turn and flip square crops."""
    turned = torch.rot90(crops, way % 4, (2, 3))
    return turned.flip(3) if way >= 4 else turned
