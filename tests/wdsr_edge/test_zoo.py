"""The shipped models are what their cards say."""

from __future__ import annotations

from pathlib import Path

import pytest

import wdsr_edge
from wdsr_edge import Bundle
from wdsr_edge.evaluation import bicubic, evaluate, load_pairs, mean_score
from wdsr_edge.loading import ZOO, find_bundle
from wdsr_edge.samples import PHOTOS

SET5 = {
    "wdsr-b-1x32-x2": 36.50,
    "wdsr-b-3x32-x2": 37.30,
    "wdsr-b-3x32-x3": 33.20,
    "wdsr-b-3x32-x4": 30.80,
    "wdsr-b-8x32-x4": 31.10,
}
"""What each must reach on Set5, PSNR on Y in dB."""


def test_these_models_ship() -> None:
    assert {path.parent.name for path in ZOO.glob("*/manifest.json")} == SET5.keys()


@pytest.mark.parametrize("name", SET5)
def test_the_card_is_complete(name: str) -> None:
    manifest = Bundle.load(find_bundle(name)).manifest
    training, figures = manifest["training"], manifest["figures"]
    assert {"data", "start", "steps", "seed", "selection", "wall_time_minutes", "machine"} <= training.keys()
    assert training["steps"] > 0
    assert {"protocol", "Set5", "Set14", "BSD100"} <= figures.keys()
    assert figures["Set5"]["psnr_y"] >= SET5[name]
    assert "cited" in manifest["licence"]
    assert manifest["parity"]["fp32"]["psnr_db"] > 90


@pytest.mark.parametrize("name", SET5)
def test_it_beats_bicubic_on_photos(name: str) -> None:
    with wdsr_edge.load(name) as sr:
        pairs = [pair for pair in load_pairs([PHOTOS], sr.scale) if pair.name == "chelsea"]
        ours, plain = evaluate(sr, pairs), evaluate(lambda lr: bicubic(lr, sr.scale), pairs)
    assert ours[0].psnr_y > plain[0].psnr_y + 0.3


@pytest.mark.parametrize("folder", ["Set5", pytest.param("Set14", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SET5)
def test_the_figures_can_be_had_again(shared_data: Path, name: str, folder: str) -> None:
    manifest = Bundle.load(find_bundle(name)).manifest
    with wdsr_edge.load(name) as sr:
        found = mean_score(evaluate(sr, load_pairs([shared_data / "eval" / folder], sr.scale)))
    for figure in ("psnr_y", "psnr_rgb", "ssim_y"):
        tolerance = 0.01 if figure.startswith("psnr") else 1e-3
        assert getattr(found, figure) == pytest.approx(manifest["figures"][folder][figure], abs=tolerance), figure
