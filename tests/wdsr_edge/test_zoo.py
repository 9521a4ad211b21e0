"""The shipped models are what their cards say."""

from __future__ import annotations

from pathlib import Path

import pytest

import wdsr_edge
from wdsr_calibration.drop import Drop, mean_psnr_y
from wdsr_calibration.samples import PHOTOGRAPHS, drawn
from wdsr_edge import Bundle, SuperResolver
from wdsr_edge.backends import ON_CPU, Backend
from wdsr_edge.bundle import Graph
from wdsr_edge.data.pairs import bicubic, load_pairs
from wdsr_edge.evaluation import evaluate, mean_score
from wdsr_edge.images.drawn import KINDS, SHARP
from wdsr_edge.images.samples import PHOTOS
from wdsr_edge.loading import ZOO, find_bundle
from wdsr_edge.models import fold, load_model
from wdsr_edge.proof.gates import check_golden, over_budget
from wdsr_export.int8 import losses_of
from wdsr_export.parity import no_float_session, sessions

SET5 = {
    "wdsr-b-1x32-x2": 36.50,
    "wdsr-b-3x32-x2": 37.30,
    "wdsr-a-3x32-x2": 37.50,
    "wdsr-b-3x32-x3": 33.20,
    "wdsr-b-3x32-x4": 30.80,
    "wdsr-b-8x32-x4": 31.10,
}
"""What each must reach on Set5, PSNR on Y in dB."""

ON_PHOTOGRAPHS_ALONE = ("wdsr-b-3x32-x3", "wdsr-b-3x32-x4", "wdsr-b-8x32-x4")
"""Those whose INT8 was calibrated before drawn pictures were: ``auto`` leaves it alone."""


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
    assert manifest["parity"]["fp32"]["onnxruntime"]["psnr_db"] > 90


@pytest.mark.parametrize("name", SET5)
def test_its_int8_was_calibrated_on_training_images_and_measured(name: str) -> None:
    bundle = Bundle.load(find_bundle(name))
    assert bundle.graphs == ("fp32", "fp16", "int8", "int8-cpu")
    assert bundle.manifest["parity"]["int8"].keys() == {"onnxruntime"}
    assert bundle.manifest["parity"]["int8-cpu"].keys() == {"onnxruntime", "openvino"}
    calibration = bundle.manifest["calibration"]
    assert calibration["folders"] == ["T91", "BSDS200"]
    if name in ON_PHOTOGRAPHS_ALONE:
        assert all(over_budget(graph, "onnxruntime", bundle.manifest) for graph in ("int8", "int8-cpu"))
        return
    assert calibration["crops"].keys() == {PHOTOGRAPHS, *KINDS}
    assert calibration["crops"][PHOTOGRAPHS] >= 100
    for graph, found in calibration["graphs"].items():
        assert found["int8_share"] >= 0.6
        assert {"head", "skip"} <= {*found["float"]}
        assert not {*found["float"]} & {*found["convs"]}
        for engine in found["losses"]:
            assert over_budget(graph, engine, bundle.manifest) == ""


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("name", SET5)
def test_its_int8_is_as_near_the_golden_frame_as_it_says(name: str, backend: Backend) -> None:
    bundle = Bundle.load(find_bundle(name))
    with wdsr_edge.load(name, precision="int8", backend=backend) as sr:
        found, passed = check_golden(bundle, "int8-cpu", sr)
    assert passed, found
    assert found.psnr_db > 42


@pytest.mark.parametrize("graph", ["int8", "int8-cpu"])
@pytest.mark.parametrize("name", SET5)
def test_int8_loses_next_to_nothing_on_set5(shared_data: Path, name: str, graph: Graph) -> None:
    bundle = Bundle.load(find_bundle(name))
    pairs = load_pairs([shared_data / "eval" / "Set5"], bundle.config.scale)
    base = bundle.manifest["figures"]["Set5"]["psnr_y"]
    # 0.03 for the one that does not come to 0.02 yet: calibration/README.md
    most = 0.06 if bundle.config.blocks == 1 else 0.03 if (name, graph) == ("wdsr-a-3x32-x2", "int8-cpu") else 0.02
    for _, session in sessions(graph, bundle.onnx(graph)):
        with SuperResolver(session, bundle.config, open_float_session=no_float_session) as sr:
            assert base - mean_psnr_y(sr, pairs) <= most


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["int8", "int8-cpu"])
@pytest.mark.parametrize("name", [name for name in SET5 if name not in ON_PHOTOGRAPHS_ALONE])
def test_int8_holds_on_drawn_pictures_that_it_has_not_seen(name: str, graph: Graph) -> None:
    """In the mean of each kind; calibration/README.md says what single pictures have come to so far."""
    bundle = Bundle.load(find_bundle(name))
    model = load_model(name)
    drop = Drop(fold(model), drawn(8, 80, bundle.config.scale, seed=77))
    for engine, losses in losses_of(model, graph, bundle.onnx(graph), drop).items():
        for kind in SHARP:
            assert losses[kind].mean_db <= 0.05, (engine, kind)
            assert losses[kind].worst_db <= (0.25 if bundle.config.blocks == 1 else 0.15), (engine, kind)
        for kind in ("flats", "gradients"):
            assert losses[kind].to_fp32_db >= 48, (engine, kind)


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
