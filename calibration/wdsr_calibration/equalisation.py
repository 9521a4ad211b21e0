"""Cross-layer equalisation (Nagel et al. 2019, arXiv:1906.04721): channels made to reach equally far, exactly.

A ReLU lets a positive factor through, and a sum lets a common one: so the channels between two convolutions, and those
of the whole residual stream, can be divided by any ``d > 0`` where they are made and multiplied by it where they are
read. The paper balances kernels against each other. Here kernels have a scale for each channel and activations have one
in all, and it is activations that cost (calibration/README.md), so ``d`` is what makes their channels equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .network import Network

LEAST = 1 / 64
"""A channel is not made more than 64 times as large: its kernel would lose its last bits to the others of its row."""


def equalise(network: Network, maxima: Mapping[str, Tensor]) -> None:
    """Scale the channels of ``network`` so that all of a group reach as far; the result stays as it was, to rounding.

    ``maxima`` are those of ``wdsr_calibration.ranges.channel_maxima``.
    """
    for group in network.groups:
        tensors = {network.edges[name].quantiser.name for name in group.consumers}
        reach = torch.stack([maxima[name] for name in tensors]).amax(0)
        if not reach.max() > 0:
            continue
        d = (reach / reach.max()).clamp(min=LEAST)
        for name in group.producers:
            network.convs[name].divide_outputs(d)
        for name in group.consumers:
            network.convs[name].expect_divided(d)
