from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from tests.strategies import ARCHS, NORMS, SCALES, configs, trained_like
from wdsr_edge._errors import ExportError
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import EDSR, WDSR, ModelConfig, build, fold
from wdsr_edge.models.reference import to_tensor

CROP = to_tensor(sample_frames()["chelsea.png"][None, 100:124, 120:150])


def assert_folds(model: nn.Module) -> None:
    """Folded equals ``model`` in eval mode to 1e-5 on a real photo, and holds plain convolutions only."""
    folded = fold(model)
    with torch.no_grad():
        expected, found = copy.deepcopy(model).cpu().float().eval()(CROP), folded(CROP)
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert set(folded.state_dict()) == {f"{name}.{part}" for name in convs(folded) for part in ("weight", "bias")}


def convs(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("arch", ARCHS)
def test_folded_equals_unfolded(arch: Any, norm: Any, scale: int) -> None:
    config = ModelConfig(arch, 2, 8, scale, norm=norm, res_scale=0.3)
    model = trained_like(config)
    assert_folds(model)
    folded = fold(model)
    assert (folded.config.norm, folded.config.res_scale) == ("none", 1)
    assert (folded.config.name, folded.config.halo) == (config.name, config.halo)


@given(configs(), st.integers(0, 2**31))
@settings(max_examples=60)
def test_folded_equals_unfolded_whatever_the_options(config: ModelConfig, seed: int) -> None:
    assert_folds(trained_like(config, seed))


@pytest.mark.parametrize("norm", NORMS)
def test_the_trained_like_network_is_far_from_a_fresh_one(norm: Any) -> None:
    """So that a fold which forgets running statistics, g or res_scale cannot pass."""
    config = ModelConfig("wdsr-b", 1, 8, 2, norm=norm, res_scale=0.3)
    model = trained_like(config)
    if norm == "batch":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                assert module.running_mean.abs().max() > 0.01
                assert (module.running_var - 1).abs().max() > 0.05
    if norm == "weight":
        g, v = model.head.parametrizations.weight.parameters()  # type: ignore[union-attr]
        assert (g.flatten() - v.flatten(1).norm(dim=1)).abs().min() > 1e-3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_the_callers_model_is_only_read(norm: Any, training: bool) -> None:
    model = trained_like(ModelConfig("wdsr-b", 2, 8, 2, norm=norm)).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold(model)
    assert model.training is training
    assert model.config.norm == norm
    assert model.state_dict().keys() == before.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in folded.parameters()}
    assert not shared
    model.train()
    model(CROP).square().mean().backward()
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())
    assert any(bool(parameter.grad.any()) for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("norm", NORMS)
def test_folding_twice_changes_nothing(norm: Any) -> None:
    once = fold(trained_like(ModelConfig("wdsr-a", 1, 8, 3, norm=norm, res_scale=0.5)))
    twice = fold(once)
    assert once.config == twice.config
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_folding_draws_no_random_numbers() -> None:
    """A training run that folds to evaluate must go on as it would have."""
    model = build(ModelConfig("wdsr-b", 1, 8, 2))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fold(model)
    assert torch.equal(torch.rand(3), expected)


def test_half_and_double_models_fold_to_float32() -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        folded = fold(trained_like(ModelConfig("wdsr-b", 1, 8, 2)).to(dtype))
        assert {parameter.dtype for parameter in folded.parameters()} == {torch.float32}
        assert folded(CROP).dtype == torch.float32


# What has no plain form


def plain() -> Any:
    return build(ModelConfig("wdsr-b", 1, 8, 2, norm="none"))


def batch_normed() -> Any:
    return build(ModelConfig("wdsr-b", 1, 8, 2, norm="batch"))


def hooked(register: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = plain()
        getattr(model.head, register)(lambda *_: None)
        return model

    return make


def on_the_model_itself() -> nn.Module:
    model: nn.Module = plain()
    model.register_forward_hook(lambda *_: None)
    return model


def replaced(name: str, make: Callable[[Any], nn.Module]) -> Callable[[], nn.Module]:
    def built() -> nn.Module:
        model: nn.Module = plain()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, make(model.get_submodule(name)))
        return model

    return built


def without_statistics() -> Any:
    model = batch_normed()
    model.head[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return model


def with_weights_of(value: float) -> Callable[[], Any]:
    def make() -> Any:
        model = plain()
        model.tail.weight.data[0, 0, 0, 0] = value
        return model

    return make


def with_a_nan_statistic() -> Any:
    model = batch_normed()
    model.head[1].running_mean[0] = float("nan")
    return model


def deprecated_weight_norm(conv: nn.Module) -> Any:
    with pytest.warns(FutureWarning):
        return torch.nn.utils.weight_norm(conv)


class DoubledConv(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Brighter(WDSR):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 0.1


class Odd(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "foreign": lambda: nn.Conv2d(3, 3, 3),
    "foreign, in a wrapper": lambda: nn.Sequential(plain()),
    "data parallel": lambda: nn.DataParallel(plain()),
    "forward hook": hooked("register_forward_hook"),
    "forward pre-hook": hooked("register_forward_pre_hook"),
    "hook on the model": on_the_model_itself,
    "old spectral norm": replaced("head", spectral_norm),
    "spectral norm": replaced("head", parametrizations.spectral_norm),
    "orthogonal": replaced("body.0.branch.2", parametrizations.orthogonal),
    "weight norm and spectral norm": replaced(
        "head", lambda conv: parametrizations.spectral_norm(parametrizations.weight_norm(conv))
    ),
    "weight norm of the bias": replaced("head", lambda conv: parametrizations.weight_norm(conv, "bias")),
    "old weight norm": replaced("head", deprecated_weight_norm),
    "batch norm without statistics": without_statistics,
    "NaN weight": with_weights_of(float("nan")),
    "infinite weight": with_weights_of(float("inf")),
    "NaN statistic": with_a_nan_statistic,
    "stride": replaced("head", lambda _: nn.Conv2d(3, 8, 3, stride=2, padding=1)),
    "dilation": replaced("head", lambda _: nn.Conv2d(3, 8, 3, dilation=2, padding=2)),
    "no padding": replaced("head", lambda _: nn.Conv2d(3, 8, 3)),
    "reflection": replaced("head", lambda _: nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")),
    "transposed": replaced("head", lambda _: nn.ConvTranspose2d(3, 8, 3, padding=1)),
    "other kernel": replaced("head", lambda _: nn.Conv2d(3, 8, 5, padding=2)),
    "other width": replaced("head", lambda _: nn.Conv2d(3, 9, 3, padding=1)),
    "one convolution more": replaced("tail", lambda conv: nn.Sequential(nn.Conv2d(8, 8, 1), conv)),
    "one convolution fewer": replaced("head", lambda _: nn.Identity()),
    "other activation": replaced("body.0.branch.1", lambda _: nn.LeakyReLU()),
    "own activation": replaced("body.0.branch.1", lambda _: Odd()),
    "dropout": replaced("tail", lambda conv: nn.Sequential(conv, nn.Dropout(0.5))),
    "group norm": replaced("head", lambda conv: nn.Sequential(conv, nn.GroupNorm(2, 8))),
    "norm before any convolution": replaced("normalise", lambda _: nn.BatchNorm2d(3)),
}

WHOLE: Any = None
ALTERED: dict[str, Callable[[], nn.Module]] = {
    "weight norm over the whole kernel": replaced("head", lambda conv: parametrizations.weight_norm(conv, dim=WHOLE)),
    "weight norm over inputs": replaced("body.0.branch.0", lambda conv: parametrizations.weight_norm(conv, dim=1)),
    "a ReLU more": replaced("head", lambda conv: nn.Sequential(conv, nn.ReLU())),
    "a ReLU fewer": replaced("body.0.branch.1", lambda _: nn.Sequential()),
    "batch norm behind the ReLU": replaced("body.0.branch.1", lambda relu: nn.Sequential(relu, nn.BatchNorm2d(48))),
    "subclass of Conv2d": replaced("head", lambda _: DoubledConv(3, 8, 3, padding=1)),
    "subclass of WDSR": lambda: Brighter(ModelConfig("wdsr-b", 1, 8, 2)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_plain_form_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match="cannot fold") as caught:
        fold(REFUSED[name]())
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_network_is_folded_right_or_refused(name: str) -> None:
    """Never folded into something else in silence."""
    model = ALTERED[name]()
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.uniform_(-1, 1)
        for parameter in model.parameters():
            parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 2))
    try:
        folded = fold(model)
    except ExportError:
        return
    torch.testing.assert_close(folded(CROP), model.eval()(CROP), rtol=1e-5, atol=1e-5)


def test_kernels_too_large_for_float32_are_refused() -> None:
    model = batch_normed()
    model.head[0].weight.data.fill_(1e30)
    model.head[1].weight.data.fill_(1e30)
    with pytest.raises(ExportError, match="not finite"):
        fold(model)


def test_both_kinds_are_exported_by_name() -> None:
    assert isinstance(fold(build(ModelConfig("edsr", 1, 4, 2))), EDSR)
    assert isinstance(fold(build(ModelConfig("wdsr-a", 1, 4, 2))), WDSR)
