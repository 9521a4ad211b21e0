"""What is learned through rounding: nearer to the picture, on every content, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.strategies import trained_like
from wdsr_calibration.drop import Budget
from wdsr_calibration.learning import LearningConfig, _crop, learn
from wdsr_calibration.network import Network
from wdsr_calibration.placement import body
from wdsr_calibration.ranges import channel_maxima, histograms, set_scales
from wdsr_calibration.samples import PHOTOGRAPHS, drawn
from wdsr_edge.data.pairs import Pair, bicubic
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import ModelConfig, fold
from wdsr_edge.models.reference import to_tensor

FRAMES = sample_frames().values()
HR = [frame[top : top + 48, 60:108] for frame in FRAMES for top in (40, 80, 120)]
CROPS = {PHOTOGRAPHS: [Pair("photo", bicubic(hr, 1 / 2), hr) for hr in HR], **drawn(1, 24, 2, seed=0)}
MODEL = trained_like(ModelConfig("wdsr-b", 2, 8, 2))
BUDGET = Budget()


def tensors() -> list[torch.Tensor]:
    return [to_tensor(pair.lr[None]) for pairs in CROPS.values() for pair in pairs]


def placed(levels: int = 7) -> Network:
    """Kernels of 4 bits, so that rounding costs much."""
    network = Network(MODEL, kernel_levels=levels)
    maxima = channel_maxima(network, tensors())
    set_scales(network, histograms(network, tensors(), maxima), "mse")
    body(network, results=True).apply(network)
    return network


@torch.no_grad()
def error(network: Network, content: str) -> float:
    target = fold(MODEL)
    crops = [to_tensor(pair.lr[None]) for pair in CROPS[content]]
    return float(sum((network(crop) - target(crop)).square().mean() for crop in crops))


def state(network: Network) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_it_brings_every_content_nearer() -> None:
    network = placed()
    contents = (PHOTOGRAPHS, "text", "screentone")
    before = {content: error(network, content) for content in contents}
    steps: list[int] = []
    config = LearningConfig(steps=60, rate=3e-3, truth=0.0, truth_drawn=0.0)
    learn(network, fold(MODEL), CROPS, BUDGET, config, on_step=steps.append)
    for content in contents:
        assert error(network, content) < 0.8 * before[content], content
    assert steps == list(range(1, 61))


def test_truth_draws_the_picture_towards_the_ground_truth() -> None:
    def to_truth(truth: float) -> float:
        network = placed()
        learn(network, fold(MODEL), CROPS, BUDGET, LearningConfig(steps=60, rate=3e-3, truth=truth))
        with torch.no_grad():
            return float(
                sum(
                    (network(to_tensor(p.lr[None])) - to_tensor(p.hr[None])).square().mean() for p in CROPS[PHOTOGRAPHS]
                )
            )

    assert to_truth(1.0) < to_truth(0.0)


def test_scales_and_channel_factors_are_learned_and_gradients_end() -> None:
    network = placed()
    before = {name: quantiser.exponent.clone() for name, quantiser in network.tensors.items()}
    head = network.convs["head"].weight.clone()
    learn(network, fold(MODEL), CROPS, BUDGET, LearningConfig(steps=5))
    used = {edge.quantiser.name for edge in network.edges.values() if edge.quantised}
    assert {name for name in before if network.tensors[name].exponent != before[name]} == used
    assert not torch.equal(network.convs["head"].weight, head), "its channels are divided by what was learned"
    for parameter in network.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    assert all(conv.inputs_by is None and conv.outputs_by is None for conv in network.convs.values())


@torch.no_grad()
def test_channel_factors_alone_leave_the_float_picture_as_it_was() -> None:
    network = placed()
    network.place(())
    before = [network(crop) for crop in tensors()]
    with torch.enable_grad():
        body(network).apply(network)
        learn(network, fold(MODEL), CROPS, BUDGET, LearningConfig(steps=4, rate=0.0))
    network.place(())
    for crop, expected in zip(tensors(), before, strict=True):
        assert (network(crop) - expected).abs().max() < 1e-4


def test_it_is_the_same_each_time_and_seeds_differ() -> None:
    def learned(seed: int) -> list[torch.Tensor]:
        network = placed()
        learn(network, fold(MODEL), CROPS, BUDGET, LearningConfig(steps=4, seed=seed))
        return state(network)

    first, again, other = learned(0), learned(0), learned(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("config", [LearningConfig(steps=0), LearningConfig(steps=5)])
def test_no_steps_and_nothing_placed_change_nothing(config: LearningConfig) -> None:
    network = placed()
    before = state(network)
    if config.steps:
        network.place(())
    learn(network, fold(MODEL), CROPS, BUDGET, config)
    assert all(torch.equal(a, b) for a, b in zip(before, state(network), strict=True))


def test_photographs_alone_are_enough() -> None:
    network = placed()
    learn(network, fold(MODEL), {PHOTOGRAPHS: CROPS[PHOTOGRAPHS]}, BUDGET, LearningConfig(steps=2))


def test_luma_and_colour_have_what_they_may_lose_each() -> None:
    """Cyan on red differs little in luma, which the budget is of, and much in colour."""
    hr = np.full((64, 64, 3), (255, 0, 0), np.uint8)
    hr[::6, ::6] = (0, 255, 255)
    pair = Pair("dots", bicubic(hr, 1 / 2), hr)
    crop = _crop(fold(MODEL), pair, "screentone", BUDGET, LearningConfig())
    assert crop.tolerance.shape == (2,)
    assert crop.tolerance[1] < 0.5 * crop.tolerance[0]
    grey = np.repeat(hr[..., :1], 3, axis=2)
    plain = _crop(fold(MODEL), Pair("grey", bicubic(grey, 1 / 2), grey), "screentone", BUDGET, LearningConfig())
    assert plain.tolerance[1] > 0.5 * plain.tolerance[0]
