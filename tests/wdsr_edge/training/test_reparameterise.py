"""Kernels as sums of branches: the same network at first, trained otherwise, and one kernel again in the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import configs, trained_like
from wdsr_edge import InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.data.pairs import Pair
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import build, fold, load_checkpoint
from wdsr_edge.models.layers import Branches
from wdsr_edge.models.reference import to_tensor
from wdsr_edge.training import TrainConfig, train
from wdsr_edge.training.reparameterise import branches, collapsed, reparameterise

CROP = to_tensor(sample_frames()["chelsea.png"][None, 100:124, 120:150])
CONFIG = ModelConfig("wdsr-b", 1, 8, 2)
RECIPE = TrainConfig(
    steps=6, batch=2, patch=8, amp="off", reparameterize=True, save_every=2, validate_every=3, clip=1.0, ema=0.5
)


@settings(max_examples=40, deadline=None)
@given(config=configs(), seed=st.integers(0, 2**31))
def test_branches_fold_into_one_kernel(config: ModelConfig, seed: int) -> None:
    if config.norm == "batch":
        with pytest.raises(InputError, match="norm weight or none"):
            reparameterise(build(config))
        return
    model = trained_like(config, seed)
    with torch.no_grad():
        before = model(CROP)
        reparameterise(model)
        torch.testing.assert_close(model(CROP), before, rtol=0, atol=0)
        torch.manual_seed(seed)
        for parameter in branches(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = model(CROP)
        assert (expected - before).abs().max() > 1e-4
        for plain in (fold(model), collapsed(model)):
            size = max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(plain(CROP) / size, expected / size, rtol=1e-5, atol=2e-5)
            assert not any(isinstance(module, Branches) for module in plain.modules())


def test_the_branches_are_trained_and_what_is_saved_has_none(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    model = train(CONFIG, RECIPE, pairs, validation, tmp_path)
    assert max(float(parameter.detach().abs().max()) for parameter in branches(model)) > 0
    saved = load_checkpoint(tmp_path / "last.safetensors")
    assert saved.config == CONFIG
    with torch.no_grad():
        torch.testing.assert_close(saved(CROP), model(CROP), rtol=1e-5, atol=1e-5)
    plain = train(CONFIG, replace(RECIPE, reparameterize=False), pairs, validation, tmp_path / "plain")
    with torch.no_grad():
        assert (plain(CROP) - model(CROP)).abs().max() > 1e-5


def test_branches_learn_at_a_tenth_of_the_rate(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    recipe = replace(RECIPE, steps=1, save_every=1, validate_every=1, ema=0.0)
    model = train(CONFIG, recipe, pairs, validation, tmp_path)
    # Adam's first step is the learning rate, whatever the gradient; a new centre begins at 0
    centres = [module.centre for module in model.modules() if isinstance(module, Branches)]
    largest = max(float(centre.detach().abs().max()) for centre in centres)
    assert largest == pytest.approx(0.1 * recipe.peak_rate(CONFIG) * recipe.rate(0), rel=0.01)


def test_with_quantize_it_is_refused() -> None:
    with pytest.raises(InputError, match="quantize and reparameterize exclude each other"):
        TrainConfig(quantize=True, reparameterize=True)
