"""FP16 graphs: half wherever it reaches far enough, and what is kept FP32 is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings

from tests.strategies import configs, trained_like
from wdsr_calibration import to_float16
from wdsr_edge import ExportError
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.metrics import difference
from wdsr_edge.models import EDSR, WDSR, ModelConfig, fold, load_model, reference
from wdsr_edge.models.reference import to_tensor
from wdsr_export import export_onnx

FRAME = np.ascontiguousarray(sample_frames()["chelsea.png"][60:110, 100:160])
FRAMES = {"chelsea": FRAME}


def export(model: EDSR | WDSR, path: Path, **options: Any) -> ir.Graph:
    export_onnx(model, path, precision="fp16", frames=FRAMES, **options)
    return ir.load(path).graph


def run(path: Path, batch: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"lr": batch})[0][0]


def half_nodes(graph: ir.Graph) -> set[str]:
    return {str(node.name) for node in graph if any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs)}


@settings(max_examples=15, deadline=None)
@example(config=ModelConfig("edsr", 3, 4, 3, expansion=1, low_rank=0.3, norm="batch", std=1.0, res_scale=1.0))
@given(config=configs())
def test_any_network_passes_the_gate_in_fp16(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("graph") / "fp16.onnx"
    model = trained_like(config)
    saving = export_onnx(model, path, precision="fp16", frames=FRAMES)[-1]
    graph = ir.load(path).graph
    assert difference(run(path, FRAME[None]), reference(model)(FRAME)).psnr_db > 50
    convs = {str(node.name) for node in graph if node.op_type == "Conv"}
    assert all(f"{name} (" in saving.detail for name in convs - half_nodes(graph)), "what stays FP32 is named"


def test_everything_is_half_between_the_casts_at_the_ends(tmp_path: Path) -> None:
    graph = export(trained_like(ModelConfig("wdsr-b", 2, 8, 2)), tmp_path / "fp16.onnx")
    casts = [node for node in graph if node.op_type == "Cast"]
    assert [node.outputs[0].dtype for node in casts] == [ir.DataType.FLOAT16, ir.DataType.UINT8]
    assert not any(
        value.dtype == ir.DataType.FLOAT for node in graph for value in (*node.inputs, *node.outputs) if value
    )
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == ir.DataType.UINT8


def test_the_float_variant_keeps_its_interface(tmp_path: Path) -> None:
    model = trained_like(ModelConfig("wdsr-b", 2, 8, 3))
    graph = export(model, tmp_path / "fp16-float.onnx", io="float32")
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == ir.DataType.FLOAT
    assert (graph.outputs[0].name, list(map(str, graph.outputs[0].shape or ()))) == ("sr", ["N", "3", "3*H", "3*W"])
    x = to_tensor(FRAME[None])
    with torch.inference_mode():
        expected = fold(model)(x)[0].numpy()
    assert np.abs(run(tmp_path / "fp16-float.onnx", x.numpy()) - expected).max() < 4e-3


def test_a_shipped_model_is_hardly_brighter(tmp_path: Path) -> None:
    """The last cast cuts off: FP16's steps of 1/8 before it would brighten the picture."""
    model = load_model("wdsr-b-1x32-x2")
    frame = sample_frames()["chelsea.png"]
    export(model, tmp_path / "fp16.onnx")
    change = run(tmp_path / "fp16.onnx", frame[None]).astype(int) - reference(model)(frame)
    assert np.abs(change).max() == 1
    assert (change != 0).mean() < 0.025
    assert abs(change.mean()) < 0.015  # 0.045 without to_float16's corrections


def scaled(model: EDSR | WDSR, factor: float) -> EDSR | WDSR:
    """The same network with a residual stream ``factor`` times as large."""
    folded = fold(model)
    with torch.no_grad():
        folded.head.weight.mul_(factor)  # type: ignore[union-attr, operator]
        folded.head.bias.mul_(factor)  # type: ignore[union-attr, operator]
        for block in folded.body:
            block.branch[0].weight.div_(factor)  # type: ignore[index, union-attr, operator]
            block.branch[-1].weight.mul_(factor)  # type: ignore[index, union-attr, operator]
            block.branch[-1].bias.mul_(factor)  # type: ignore[index, union-attr, operator]
        folded.tail.weight.div_(factor)  # type: ignore[union-attr, operator]
    return folded


@pytest.mark.parametrize(("factor", "words"), [(1e6, "FP16 ends at 65504"), (1e-6, "FP16's smallest is 6e-8")])
def test_what_fp16_cannot_hold_stays_fp32_and_is_named(factor: float, words: str, tmp_path: Path) -> None:
    model = scaled(trained_like(ModelConfig("wdsr-b", 2, 8, 2)), factor)
    saving = export_onnx(model, tmp_path / "fp16.onnx", precision="fp16", frames=FRAMES)[-1]
    assert words in saving.detail
    graph = ir.load(tmp_path / "fp16.onnx").graph
    stream = {"head", "add", "add_1", "tail", *(f"body.{i}.branch.{j}" for i in (0, 1) for j in (0, 3))}
    assert not half_nodes(graph) & stream
    assert {"skip", "body.0.branch.1"} <= half_nodes(graph)
    assert all(name in saving.detail for name in stream)
    assert difference(run(tmp_path / "fp16.onnx", FRAME[None]), reference(model)(FRAME)).psnr_db > 50


def test_a_network_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    model = scaled(trained_like(ModelConfig("wdsr-b", 1, 8, 2)), 1e30)
    with torch.no_grad():
        model.head.weight.mul_(1e10)  # type: ignore[union-attr, operator]
    with pytest.raises(ExportError, match=r"not finite on chelsea|weights are not finite"):
        export_onnx(model, tmp_path / "fp16.onnx", precision="fp16", frames=FRAMES)
    assert list(tmp_path.iterdir()) == []


def test_a_node_to_keep_must_be_there(tmp_path: Path) -> None:
    export_onnx(trained_like(ModelConfig("wdsr-b", 1, 8, 2)), tmp_path / "fp32.onnx")
    with pytest.raises(ExportError, match=r"no node body\.7"):
        to_float16(ir.load(tmp_path / "fp32.onnx"), ["body.7"])


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(trained_like(ModelConfig("wdsr-a", 1, 8, 2)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
