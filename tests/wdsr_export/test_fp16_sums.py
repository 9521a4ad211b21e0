"""FP16 sums, simulated: what they cost, and that nothing else is changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.strategies import trained_like
from wdsr_edge import Bundle
from wdsr_edge.bundle import WEIGHTS
from wdsr_edge.config import ModelConfig
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.loading import find_bundle, zoo_names
from wdsr_edge.metrics import psnr
from wdsr_edge.models import fold, load_checkpoint, reference
from wdsr_edge.proof.gates import golden_gate
from wdsr_export import fp16_sums as module
from wdsr_export.fp16_sums import NAME, fp16_sums, fp16_sums_entry


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig("wdsr-a", 1, 8, 2),
        ModelConfig("wdsr-b", 1, 8, 3),
        ModelConfig("edsr", 1, 8, 4),
        ModelConfig("wdsr-b", 1, 8, 2, expansion_conv="group"),
        ModelConfig("wdsr-b", 1, 8, 2, expansion_conv="depthwise"),
    ],
    ids=str,
)
def test_without_rounding_it_is_the_network(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lr = trained_like(config), golden_frame()[:20, :30]
    rounded = fp16_sums(model, lr)
    assert 45 < psnr(rounded, reference(model)(lr)) < 80
    monkeypatch.setattr(module, "_half", lambda values: values)
    assert np.abs(fp16_sums(model, lr).astype(int) - reference(model)(lr)).max() <= 1
    assert psnr(fp16_sums(model, lr), reference(model)(lr)) > 75


def test_a_sum_is_rounded_after_each_step() -> None:
    """2048 + 1 is 2048 in FP16, however often 1 is added."""
    conv = torch.nn.Conv2d(40, 1, 1, bias=False)
    torch.nn.init.constant_(conv.weight, 1)
    lr = torch.zeros(1, 40, 1, 1)
    lr[:, 0], lr[:, 16], lr[:, 32] = 2048, 1, 1
    assert module._Rounded(conv)(lr).item() == 2048
    assert conv(lr).item() == 2050
    lr[:, 17], lr[:, 32] = 1, 0
    assert module._Rounded(conv)(lr).item() == 2050, "within a step nothing is"


def test_the_network_itself_is_left_as_it_was() -> None:
    model = trained_like(ModelConfig("wdsr-b", 1, 8, 2))
    lr = golden_frame()[:9, :9]
    before = reference(fold(model))(lr)
    fp16_sums(model, lr)
    assert (reference(fold(model))(lr) == before).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_names())
def test_shipped_models_record_it(name: str) -> None:
    bundle = Bundle.load(find_bundle(name))
    recorded = bundle.manifest["parity"]["fp16"]
    found = fp16_sums_entry(load_checkpoint(bundle.path / WEIGHTS), golden_frame())
    assert recorded[NAME] == found | {"golden_db": pytest.approx(found["golden_db"], abs=0.05)}
    worst = min(entry["golden_db"] for entry in recorded.values())
    assert golden_gate("fp16", bundle.manifest).least_db == worst - 1 > 60
