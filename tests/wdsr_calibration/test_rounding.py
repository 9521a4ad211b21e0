"""Rounding of kernels: nearer to the unquantised picture, and the same each time."""

from __future__ import annotations

import torch

from tests.strategies import trained_like
from wdsr_calibration.network import Network
from wdsr_calibration.placement import body
from wdsr_calibration.ranges import channel_maxima, histograms, set_scales
from wdsr_calibration.rounding import RoundingConfig, round_kernels
from wdsr_edge.models import ModelConfig, fold
from wdsr_edge.models.reference import to_tensor
from wdsr_edge.samples import sample_frames

FRAMES = sample_frames().values()
CROPS = [to_tensor(frame[None, top : top + 24, 60:84]) for frame in FRAMES for top in (40, 80, 120)]
MODEL = trained_like(ModelConfig("wdsr-b", 2, 8, 2))


def placed(levels: int = 7) -> Network:
    """Kernels of 4 bits, so that rounding costs much."""
    network = Network(MODEL, kernel_levels=levels)
    maxima = channel_maxima(network, CROPS)
    set_scales(network, histograms(network, CROPS, maxima), "mse")
    body(network).apply(network)
    return network


@torch.no_grad()
def error(network: Network) -> float:
    target = fold(MODEL)
    return float(sum((network(crop) - target(crop)).square().mean() for crop in CROPS))


def kernels(network: Network) -> list[torch.Tensor]:
    return [conv.weight.detach().clone() for conv in network.convs.values()]


def test_it_brings_the_picture_nearer() -> None:
    network = placed()
    before = error(network)
    steps: list[int] = []
    round_kernels(network, fold(MODEL), CROPS, RoundingConfig(steps=60, rate=3e-3), on_step=steps.append)
    assert error(network) < 0.7 * before
    assert steps == list(range(1, 61))


def test_only_placed_kernels_change_and_gradients_end() -> None:
    network = placed()
    before = dict(zip(network.convs, kernels(network), strict=True))
    round_kernels(network, fold(MODEL), CROPS, RoundingConfig(steps=2))
    for name, conv in network.convs.items():
        assert torch.equal(conv.weight, before[name]) == (name not in body(network).convs)
        assert not conv.weight.requires_grad
        assert conv.weight.grad is None


def test_it_is_the_same_each_time_and_seeds_differ() -> None:
    def rounded(seed: int) -> list[torch.Tensor]:
        network = placed()
        round_kernels(network, fold(MODEL), CROPS, RoundingConfig(steps=4, seed=seed))
        return kernels(network)

    first, again, other = rounded(0), rounded(0), rounded(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_no_steps_and_nothing_placed_change_nothing() -> None:
    network = placed()
    before = kernels(network)
    round_kernels(network, fold(MODEL), CROPS, RoundingConfig(steps=0))
    network.place(())
    round_kernels(network, fold(MODEL), CROPS, RoundingConfig(steps=5))
    assert all(torch.equal(a, b) for a, b in zip(before, kernels(network), strict=True))
