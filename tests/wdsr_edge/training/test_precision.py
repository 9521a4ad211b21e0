"""The precision of ``amp = auto``: what is faster here, said, and kept when the run goes on."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wdsr_edge.config import ModelConfig
from wdsr_edge.data.pairs import Pair
from wdsr_edge.models import build
from wdsr_edge.training import TrainConfig, World, train
from wdsr_edge.training import precision as module
from wdsr_edge.training.precision import settle_amp

CONFIG = ModelConfig("wdsr-b", 1, 8, 2)
RECIPE = TrainConfig(steps=4, batch=2, patch=8, save_every=2, validate_every=2)
CPU = torch.device("cpu")


@pytest.mark.parametrize(("bfloat16", "off", "expected"), [(9.0, 2.0, "off"), (1.0, 2.0, "bfloat16")])
def test_the_faster_one_is_taken_said_and_kept(
    tmp_path: Path,
    pairs: list[Pair],
    validation: list[Pair],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bfloat16: float,
    off: float,
    expected: str,
) -> None:
    ms = {"bfloat16": bfloat16, "off": off}
    monkeypatch.setattr(module, "_ms_of_a_step", lambda recipe, model, amp, device, world: ms[amp])
    with caplog.at_level(logging.INFO, "wdsr_edge"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "auto")
    line = f"amp is {expected}: a step takes {bfloat16:.0f} ms in bfloat16 and {off:.0f} without"
    assert [record.getMessage() for record in caplog.records] == [line]
    train(CONFIG, replace(RECIPE, amp=expected), pairs, validation, tmp_path / "named")  # type: ignore[arg-type]
    assert (tmp_path / "auto" / "last.safetensors").read_bytes() == (
        tmp_path / "named" / "last.safetensors"
    ).read_bytes()
    monkeypatch.setattr(module, "_ms_of_a_step", None)  # a run that goes on is not timed again
    longer = train(CONFIG, replace(RECIPE, steps=6), pairs, validation, tmp_path / "auto")
    assert all(bool(parameter.isfinite().all()) for parameter in longer.parameters())


def test_timing_changes_neither_the_network_nor_what_is_drawn() -> None:
    model = build(CONFIG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    found = settle_amp(RECIPE, model, Path("none"), CPU, World())
    assert found.amp in ("off", "bfloat16")
    assert replace(found, amp="auto") == RECIPE
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_named_precision_and_quantize_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ms_of_a_step", None)
    for amp in ("off", "bfloat16", "float16"):
        recipe = replace(RECIPE, amp=amp)  # type: ignore[arg-type]
        assert settle_amp(recipe, build(CONFIG), Path("none"), CPU, World()) == recipe
    assert settle_amp(replace(RECIPE, quantize=True), build(CONFIG), Path("none"), CPU, World()).amp == "off"
