"""Networks between two others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import configs, trained_like
from wdsr_edge import InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import blend, fold
from wdsr_edge.models.reference import to_tensor

CROP = to_tensor(sample_frames()["chelsea.png"][None, 100:116, 120:136])


@given(config=configs(), share=st.floats(0, 1))
def test_kernels_are_the_mean_and_the_ends_are_the_networks(config: ModelConfig, share: float) -> None:
    first, second = trained_like(config, 1), trained_like(config, 2)
    with torch.no_grad():
        assert torch.equal(blend(first, second, 0)(CROP), fold(first)(CROP))
        torch.testing.assert_close(blend(first, second, 1)(CROP), fold(second)(CROP))
    mixed = blend(first, second, share).state_dict()
    for name, one in fold(first).state_dict().items():
        other = fold(second).state_dict()[name]
        torch.testing.assert_close(mixed[name], (1 - share) * one + share * other, rtol=1e-5, atol=1e-6)


def test_the_norm_may_differ_and_nothing_else() -> None:
    config = ModelConfig("wdsr-b", 1, 8, 2)
    assert blend(trained_like(config), trained_like(replace(config, norm="none"))).config.norm == "none"
    for other in (replace(config, scale=3), replace(config, channels=12), replace(config, std=1.0)):
        with pytest.raises(InputError, match="the two networks must be alike: "):
            blend(trained_like(config), trained_like(other))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf"), "half"])
def test_a_share_is_from_0_to_1(share: float) -> None:
    model = trained_like(ModelConfig("wdsr-b", 1, 8, 2))
    with pytest.raises(InputError, match="share must be from 0 to 1"):
        blend(model, model, share)
