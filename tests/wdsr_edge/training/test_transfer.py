"""Weights of one network as the start of another: same function, or the same body at another scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.strategies import ARCHS, NORMS, SCALES, configs, trained_like
from wdsr_edge import InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import EDSR, WDSR, build, fold
from wdsr_edge.models.reference import to_tensor
from wdsr_edge.training import config_of_start
from wdsr_edge.training.transfer import transfer

FRAME = to_tensor(golden_frame()[None, :24, :32])


def successor(start: EDSR | WDSR, **changes: Any) -> tuple[EDSR | WDSR, list[str]]:
    """A fresh network that ``start`` was transferred into, and the names of the convolutions that stayed fresh."""
    torch.manual_seed(1)
    model = build(config_of_start(replace(start.config, **changes), start.config))
    fresh = transfer(start, model)
    return model.eval(), fresh


def kernels(model: EDSR | WDSR) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Kernel and bias of every convolution, by its name in the config, once all norms are folded into them."""
    convs = [module for module in fold(model).modules() if isinstance(module, nn.Conv2d)]
    found = zip(model.config.convs, convs, strict=True)
    return {shape.name: (conv.weight, conv.bias) for shape, conv in found if conv.bias is not None}


@torch.no_grad()
def same_function(ours: EDSR | WDSR, theirs: EDSR | WDSR) -> bool:
    expected = theirs(FRAME)
    return torch.allclose(ours(FRAME), expected, rtol=0, atol=2e-4 * max(1.0, float(expected.abs().max())))


@given(configs(), st.sampled_from(NORMS), st.integers(0, 99))
def test_at_the_same_scale_any_norm_gives_the_same_function(config: ModelConfig, norm: Any, seed: int) -> None:
    start = trained_like(config, seed)
    model, fresh = successor(start, norm=norm)
    assert model.config.norm == norm
    assert fresh == []
    assert same_function(model, start)


@given(configs(), st.sampled_from(NORMS), st.sampled_from(SCALES))
def test_at_another_scale_all_but_the_last_convolutions_are_the_same(
    config: ModelConfig, norm: Any, scale: Any
) -> None:
    start = trained_like(config)
    model, fresh = successor(start, norm=norm, scale=scale)
    ours, theirs = kernels(model), kernels(start)
    for name in ours.keys() - fresh:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-4)
    assert {name.partition(".")[0] for name in fresh} == (
        set() if scale == config.scale else {"upsampler"} if config.arch == "edsr" else {"tail", "skip"}
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_what_another_scale_leaves_fresh_is_untouched(arch: Any) -> None:
    start = trained_like(ModelConfig(arch, 1, 8, 2))
    config = config_of_start(replace(start.config, scale=4), start.config)
    torch.manual_seed(3)
    model = build(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    transfer(start, model)
    after = model.state_dict()
    untouched = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert untouched == {name for name in before if name.startswith(("tail", "skip", "upsampler"))} - (
        {"tail.weight", "tail.bias"} if arch == "edsr" else set()
    )


@pytest.mark.parametrize("goal", NORMS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_dead_filter_stays_dead_and_trains_without_nan(norm: Any, goal: Any) -> None:
    """Weight norm has no value for a kernel of zeros, which pruning or a batch norm's factor of 0 makes."""
    start = trained_like(ModelConfig("wdsr-b", 1, 8, 2, norm=norm))
    with torch.no_grad():
        weights = dict(start.named_parameters())
        gains = {"weight": "head.parametrizations.weight.original0", "batch": "head.1.weight", "none": "head.weight"}
        weights[gains[norm]][2] = 0
    model, _ = successor(start, norm=goal)
    assert same_function(model, start)
    model.train()(FRAME).square().mean().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@settings(max_examples=10)
@given(configs(), st.sampled_from(NORMS))
def test_the_start_is_only_read(config: ModelConfig, norm: Any) -> None:
    start = trained_like(config)
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    model, _ = successor(start, norm=norm)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items())
    assert not start.training


def test_what_a_name_does_not_say_comes_from_the_start() -> None:
    start = ModelConfig("wdsr-b", 1, 8, 2, expansion=3, low_rank=0.5, mean=(0, 0, 0), std=1.0, res_scale=0.1)
    found = config_of_start(ModelConfig.from_name("wdsr-b-1x8-x3"), start)
    assert found == replace(start, scale=3)
    assert config_of_start(ModelConfig("wdsr-b", 1, 8, 2, norm="none"), start).res_scale == 1


@pytest.mark.parametrize(
    ("other", "what"), [("wdsr-a-1x8-x2", "arch"), ("wdsr-b-2x8-x2", "blocks"), ("wdsr-b-1x12-x4", "channels")]
)
def test_another_network_is_no_start(other: str, what: str) -> None:
    wanted = ModelConfig.from_name("wdsr-b-1x8-x2")
    with pytest.raises(InputError, match=f"wdsr-b-1x8-x2 cannot start from {other}: {what} differs"):
        config_of_start(wanted, ModelConfig.from_name(other))
    with pytest.raises(InputError):
        transfer(build(ModelConfig.from_name(other)), build(wanted))


def test_weights_that_would_mean_something_else_are_refused() -> None:
    start = build(ModelConfig("wdsr-b", 1, 8, 2, std=1.0))
    with pytest.raises(InputError, match="config_of_start"):
        transfer(start, build(ModelConfig("wdsr-b", 1, 8, 2)))
