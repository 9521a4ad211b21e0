"""What auto may take: INT8 that stays within its bundle's budget on every content."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.bundles import calibration_within_budget
from wdsr_edge.bundle import Bundle
from wdsr_edge.choices import Choice, remember
from wdsr_edge.loading import candidates, find_bundle
from wdsr_edge.proof.gates import over_budget

MANIFEST: dict[str, Any] = {"calibration": calibration_within_budget()}


def with_loss(content: str, **loss: float) -> dict[str, Any]:
    manifest = copy.deepcopy(MANIFEST)
    losses = manifest["calibration"]["graphs"]["int8-cpu"]["losses"]["openvino"]
    losses[content] = {**losses[content], **loss}
    return manifest


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_within_the_budget_nothing_is_said(engine: str) -> None:
    assert over_budget("int8-cpu", engine, MANIFEST) == ""
    assert over_budget("fp16", engine, {}) == ""


@pytest.mark.parametrize(
    ("content", "loss", "words"),
    [
        ("photographs", {"mean_db": 0.04}, "photographs lose 0.04 dB"),
        ("text", {"mean_db": 0.95}, "text lose 0.95 dB"),
        ("text", {"worst_db": 0.2}, "one picture of text loses 0.20 dB"),
        ("flats", {"to_fp32_db": 44.0}, "flats come to 44.0 dB of FP32"),
    ],
)
def test_any_content_beyond_the_budget_is_named(content: str, loss: dict[str, float], words: str) -> None:
    assert over_budget("int8-cpu", "openvino", with_loss(content, **loss)) == words
    assert over_budget("int8-cpu", "openvino", with_loss(content, worst_db=9.0)) or content == "photographs"


@pytest.mark.parametrize("calibration", [None, {}, {"graphs": 3}, {"budget": {}, "graphs": {"int8-cpu": {}}}, "x"])
def test_int8_whose_losses_are_not_recorded_is_not_trusted(calibration: Any) -> None:
    assert "calibrate it again" in over_budget("int8-cpu", "openvino", {"calibration": calibration})


@pytest.mark.parametrize("lost", [0.01, 0.95])
def test_auto_takes_the_fastest_only_within_its_budget(
    lost: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Bundle.load(find_bundle("wdsr-b-1x32-x2"))
    bundle.manifest["calibration"] = with_loss("text", mean_db=lost)["calibration"]
    remember(bundle, {Choice("onnxruntime", "fp32"): 9.0, Choice("openvino", "int8"): 3.0})
    best = candidates(bundle)[0]
    assert best == (Choice("openvino", "int8") if lost < 0.06 else Choice("onnxruntime", "fp32"))
    assert candidates(bundle, precision="int8")[0] == Choice("openvino", "int8"), "it can be asked for"
