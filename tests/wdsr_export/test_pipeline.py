"""``deploy``: all of it, on a network small enough for a test."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import wdsr_edge
from wdsr_calibration import CalibrationSet, Loss, SampleConfig, sample_folders
from wdsr_calibration.samples import PHOTOGRAPHS
from wdsr_edge import Bundle, ExportError, InputError
from wdsr_edge.backends import installed
from wdsr_edge.bundle import GOLDEN_LR, GOLDEN_SR, MANIFEST, WEIGHTS
from wdsr_edge.images.samples import PHOTOS, golden_frame
from wdsr_edge.models import EDSR, WDSR, ModelConfig, build, fold, load_checkpoint, load_model, reference
from wdsr_export import Deployment, check_parity, deploy, verify
from wdsr_export import parity as parity_module
from wdsr_export.graph import weights_hash

Rgb = NDArray[np.uint8]
SIZES = ((8, 12), (5, 5))


def small(name: str = "wdsr-b-1x4-x2", seed: int = 0, **options: Any) -> EDSR | WDSR:
    torch.manual_seed(seed)
    config = ModelConfig.from_name(name)
    return build(ModelConfig(config.arch, config.blocks, config.channels, config.scale, **options))


def frames() -> dict[str, Rgb]:
    return {"coffee": np.ascontiguousarray(golden_frame()[:40, :50]), "cup": np.ascontiguousarray(golden_frame()[50:])}


def quick(model: EDSR | WDSR, output: Path, **options: Any) -> Deployment:
    return deploy(model, output, frames(), sizes=SIZES, seconds=0, **options)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


MODELS = {
    "wdsr-b": small("wdsr-b-1x4-x3"),
    "wdsr-a": small("wdsr-a-1x4-x2"),
    "edsr": small("edsr-1x4-x4"),
    "batch norm": small("wdsr-b-2x4-x2", norm="batch"),
    "res_scale": small("wdsr-a-1x4-x2", res_scale=0.3),
    "group": small("wdsr-a-1x4-x2", expansion_conv="group"),
    "other mean": small("wdsr-b-1x4-x2", mean=(0, 0.5, 1), std=1),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_it_writes_a_bundle_that_runs(model: EDSR | WDSR, tmp_path: Path) -> None:
    done = quick(model, tmp_path / "bundle")
    assert [(found.graph, found.engine, found.passed) for found in done.parity] == [
        (graph, engine, True) for graph in ("fp32", "fp16") for engine in installed()
    ]
    assert done.bundle is not None
    assert done.bundle.config == model.config
    assert [one.choice for one in done.timed] == [(engine, "fp32") for engine in installed()]
    for one in done.timed:
        assert one.latency.keys() == set(SIZES)
        assert one.p50_ms == sum(latency.p50_ms for latency in one.latency.values()) > 0
    assert done.savings
    upscale, frame = reference(model), frames()["cup"]
    with wdsr_edge.load(tmp_path / "bundle") as sr:
        assert np.abs(sr(frame).astype(int) - upscale(frame)).max() <= 1
        deep = sr(frame.astype(np.uint16) * 257)
        with torch.inference_mode():
            x = torch.from_numpy(frame.transpose(2, 0, 1)[None].astype(np.float32) / 255)
            expected = model.eval()(x)[0].permute(1, 2, 0).numpy().clip(0, 1)
        assert np.abs(deep / 65535 - expected).max() < 1e-4
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_the_golden_pair_verifies(tmp_path: Path) -> None:
    model = small()
    bundle = quick(model, tmp_path / "bundle").bundle
    assert bundle is not None
    lr, sr = bundle.golden()
    np.testing.assert_array_equal(lr, golden_frame())
    np.testing.assert_array_equal(sr, reference(model)(lr))
    found = verify(load_model(tmp_path / "bundle"), tmp_path / "bundle", {"golden": lr})
    assert [(parity.graph, parity.engine, parity.passed) for parity in found] == [
        (graph, engine, True) for graph in ("fp32", "fp16") for engine in installed()
    ]


def test_the_manifest_says_how_it_was_made(tmp_path: Path) -> None:
    model = small()
    done = quick(model, tmp_path / "bundle", details={"trained": {"steps": 100, "note": "é"}})
    manifest = json.loads((tmp_path / "bundle" / MANIFEST).read_text(encoding="utf-8"))
    assert done.bundle is not None
    assert manifest == done.bundle.manifest
    assert manifest["format_version"] == 1
    assert manifest["name"] == "wdsr-b-1x4-x2"
    assert manifest["trained"] == {"steps": 100, "note": "é"}
    assert manifest["weights_sha256"] == weights_hash(fold(model))
    assert manifest["calibration"] is None
    assert manifest["versions"].keys() == {"wdsr-edge", "torch", "onnx"}
    for found in done.parity:
        entry = manifest["parity"][found.graph][found.engine]
        assert entry["images"] == ["coffee", "cup"]
        assert entry["max_levels"] == found.total.max_levels
        for recorded, measured in ((entry["psnr_db"], found.total.psnr_db), (entry["golden_db"], found.golden_db)):
            assert (np.inf if recorded is None else recorded) == measured
    names = {"fp32.onnx", "fp32-float.onnx", "fp16.onnx", WEIGHTS, GOLDEN_LR, GOLDEN_SR}
    assert manifest["files"].keys() == names
    assert contents(tmp_path / "bundle").keys() == {*names, MANIFEST}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "bundle" / name).read_bytes()).hexdigest() == digest


def test_the_manifest_is_strict_json_even_when_parity_is_perfect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal images have an infinite PSNR, and JSON has no Infinity: other readers would refuse it."""

    def strict(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    model = small()
    exact = reference(model)

    def perfect(model: Any, upscale: Any, *others: Any, **options: Any) -> Any:
        return check_parity(model, exact, *others, **options)

    monkeypatch.setattr(parity_module, "check_parity", perfect)
    quick(model, tmp_path / "bundle")
    json.loads((tmp_path / "bundle" / MANIFEST).read_text(), parse_constant=strict)


def test_the_weights_in_the_bundle_are_the_models(tmp_path: Path) -> None:
    model = small(norm="batch")
    quick(model, tmp_path / "bundle")
    stored = load_checkpoint(tmp_path / "bundle" / WEIGHTS)
    assert stored.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored.state_dict()[name])


def test_two_deploys_give_the_same_files(tmp_path: Path) -> None:
    model = small()
    quick(model, tmp_path / "a")
    quick(model, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_old_bundle_is_replaced(tmp_path: Path) -> None:
    quick(small(), tmp_path / "bundle", details={"old": True})
    (tmp_path / "bundle" / "golden" / "stale.png").write_bytes(b"")
    other = small("wdsr-a-1x4-x3", seed=1)
    quick(other, tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.config == other.config
    assert "old" not in loaded.manifest
    assert not (tmp_path / "bundle" / "golden" / "stale.png").exists()


@pytest.mark.parametrize("old", [False, True])
def test_failing_parity_writes_nothing_and_says_why(old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if old:
        quick(small(seed=3), tmp_path / "bundle")
    before = contents(tmp_path)
    real = parity_module.open_session

    class Swapped:
        """Red and blue swapped on output."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def run(self, batch: NDArray[Any]) -> NDArray[Any]:
            return np.ascontiguousarray(self.inner.run(batch)[..., ::-1])

        def close(self) -> None:
            self.inner.close()

    monkeypatch.setattr(parity_module, "open_session", lambda *args, **options: Swapped(real(*args, **options)))
    stages: list[str] = []
    done = quick(small(), tmp_path / "bundle", on_stage=lambda stage, total: stages.append(stage))
    assert done.bundle is None
    assert not done.parity[0].passed
    assert done.parity[0].diagnosis.startswith("red and blue swapped on output: ")
    assert done.timed == []
    assert stages == ["fold and export", "verify"]
    assert contents(tmp_path) == before


def test_stages_are_told(tmp_path: Path) -> None:
    stages: list[str] = []
    quick(small(), tmp_path / "bundle", on_stage=lambda stage, total: stages.append(stage))
    assert stages == ["fold and export", "verify", "write", "benchmark"]


def test_a_model_that_cannot_be_folded_writes_nothing(tmp_path: Path) -> None:
    model = small()
    model.head.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    with pytest.raises(ExportError):
        quick(model, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is not a bundle"):
        quick(small(), tmp_path / "home")
    assert contents(tmp_path / "home") == {"thesis.txt": b"precious"}


def test_a_folder_that_is_no_bundle_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    stages: list[str] = []
    with pytest.raises(InputError):
        quick(small(), tmp_path / "home", on_stage=lambda stage, total: stages.append(stage))
    assert "benchmark" not in stages


def test_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        deploy(small(), tmp_path / "bundle", {}, sizes=SIZES, seconds=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("details", [{"files": {}}, {"config": {}}, {"format_version": 9}, {"parity": "excellent"}])
def test_details_do_not_replace_what_was_measured(details: dict[str, Any], tmp_path: Path) -> None:
    try:
        done = quick(small(), tmp_path / "bundle", details=details)
    except wdsr_edge.WdsrError:
        assert list(tmp_path.iterdir()) == []
        return
    assert done.bundle is not None
    assert done.bundle.has("fp32.onnx")
    assert done.bundle.manifest["parity"]["fp32"]["onnxruntime"]["max_levels"] <= 1


def test_deploy_only_reads_the_model(tmp_path: Path) -> None:
    model = small(norm="batch").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quick(model, tmp_path / "bundle")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def calibration_set(scale: int) -> CalibrationSet:
    return sample_folders([PHOTOS], scale, SampleConfig(crops=6, size=24, drawn=0, held_out=1))


def losing(decibels: float) -> dict[str, Loss]:
    return {PHOTOGRAPHS: Loss(decibels, decibels, math.inf)}


def test_int8_is_made_within_the_budget_and_kept_by_the_next_deploy(tmp_path: Path) -> None:
    model = small("wdsr-b-1x4-x2")
    done = quick(model, tmp_path / "a", samples=calibration_set(2), max_drop=1.0)
    assert done.bundle is not None
    assert [(one.graph, one.met) for one in done.int8] == [("int8-cpu", True), ("int8", True)]
    assert done.bundle.graphs == ("fp32", "fp16", "int8", "int8-cpu")
    parity = done.bundle.manifest["parity"]
    assert {graph: list(entry) for graph, entry in parity.items()} == {
        "fp32": installed(),
        "fp16": [*installed(), "sums-in-fp16"],
        "int8": ["onnxruntime"],
        "int8-cpu": installed(),
    }
    assert {one.choice for one in done.timed} == {(engine, kind) for engine in installed() for kind in ("fp32", "int8")}
    again = quick(model, tmp_path / "b", keep=done.bundle, details={"note": 1})
    assert again.bundle is not None
    for name in done.bundle.manifest["files"]:
        assert again.bundle.read(name) == done.bundle.read(name), name
    assert again.bundle.manifest["calibration"] == done.bundle.manifest["calibration"]
    assert again.bundle.manifest["parity"].keys() == parity.keys()
    other = quick(small("wdsr-b-1x4-x2", seed=1), tmp_path / "c", keep=done.bundle).bundle
    assert other is not None
    assert other.graphs == ("fp32", "fp16")


def test_a_budget_that_cannot_be_met_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdsr_calibration.drop.Drop.__call__", lambda self, network, placement: losing(0.5))
    done = quick(small(), tmp_path / "bundle", samples=calibration_set(2), max_drop=0.1)
    assert done.bundle is None
    assert all(found.passed for found in done.parity)
    assert not any(one.met for one in done.int8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("max_drop", [-1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused_before_the_work(tmp_path: Path, max_drop: float) -> None:
    stages: list[str] = []
    with pytest.raises(InputError, match="budget"):
        quick(small(), tmp_path / "bundle", max_drop=max_drop, on_stage=lambda stage, total: stages.append(stage))
    assert stages == []


def test_an_engine_that_loses_more_than_the_simulation_fails_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CPU does whose products saturate."""
    monkeypatch.setattr("wdsr_calibration.drop.Drop.__call__", lambda self, network, placement: losing(0.0))
    monkeypatch.setattr("wdsr_calibration.drop.Drop.of", lambda self, upscale: losing(1.0))
    done = quick(small(), tmp_path / "bundle", samples=calibration_set(2), max_drop=0.1)
    assert done.bundle is None
    assert [(one.calibration.met, one.met) for one in done.int8] == [(True, False)] * 2
