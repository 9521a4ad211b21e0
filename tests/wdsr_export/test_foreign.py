"""A file is held to what its precision can reach, and a graph that is only quantised is not called faulty."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.wdsr_edge.cli.conftest import Command, wdsr_edge
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.loading import ZOO
from wdsr_edge.models import load_model, reference
from wdsr_export import check_parity, verify
from wdsr_export.foreign import precision_of_file

__all__ = ["wdsr_edge"]
NAME = "wdsr-b-1x32-x2"
FRAMES = {"golden": golden_frame()[:40, :40]}
FILES = {
    "fp32.onnx": "fp32",
    "fp32-float.onnx": "fp32",
    "fp16.onnx": "fp16",
    "int8.onnx": "int8",
    "int8-cpu.onnx": "int8-cpu",
}


@pytest.mark.parametrize("copied", [False, True], ids=["in its bundle", "copied"])
@pytest.mark.parametrize("name", FILES)
def test_the_files_of_a_bundle_pass_by_the_gate_of_their_precision(name: str, copied: bool, tmp_path: Path) -> None:
    path = ZOO / NAME / name
    if copied:
        path = Path(shutil.copy(path, tmp_path / "copy.onnx"))
    (parity,) = verify(load_model(NAME), path, FRAMES)
    assert (parity.graph, parity.passed, parity.diagnosis) == (FILES[name], True, "")
    assert (parity.golden_db is not None) == (not copied and "int8" in name), "what its bundle records is asked for"


def test_int8_must_reach_what_its_bundle_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdsr_edge.proof.gates.SLACK_DB", -20.0)
    (parity,) = verify(load_model(NAME), ZOO / NAME / "int8-cpu.onnx", FRAMES)
    assert not parity.passed
    assert "dB on the golden frame, less than" in parity.diagnosis


def test_the_command_takes_them(wdsr_edge: Command) -> None:
    Image.fromarray(FRAMES["golden"]).save("small.png")
    for name, precision in (("fp16.onnx", "fp16"), ("int8-cpu.onnx", "int8-cpu")):
        done = wdsr_edge("verify", NAME, "--onnx", ZOO / NAME / name, "--images", "small.png")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{precision} against the PyTorch reference: passed" in done.stdout


def coarse(path: Path, levels: int, form: Callable[[Any, Any], list[Any]]) -> None:
    """FP32's file with kernels of few levels behind a DequantizeLinear: no fault, only too coarse."""
    model = onnx.load(ZOO / NAME / "fp32.onnx")
    convs = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for kernel in [one for one in model.graph.initializer if one.name in convs]:
        model.graph.initializer.remove(kernel)
        values = numpy_helper.to_array(kernel)
        scale = np.float32(np.abs(values).max() / levels)
        codes = numpy_helper.from_array(np.rint(values / scale).astype(np.int8), kernel.name + "_codes")
        model.graph.initializer.extend([codes, numpy_helper.from_array(scale, kernel.name + "_scale")])
        for node in reversed(form(kernel, codes)):
            model.graph.node.insert(0, node)
    onnx.save(model, path)


def dequantize(kernel: Any, codes: Any) -> list[Any]:
    return [helper.make_node("DequantizeLinear", [codes.name, kernel.name + "_scale"], [kernel.name])]


@pytest.mark.parametrize("levels", [7, 15])
def test_a_graph_that_is_only_quantised_is_not_called_faulty(levels: int, tmp_path: Path) -> None:
    coarse(tmp_path / "m.onnx", levels, dequantize)
    (parity,) = verify(load_model(NAME), tmp_path / "m.onnx", FRAMES)
    assert parity.graph == "int8-cpu"
    assert not parity.passed
    assert parity.diagnosis.startswith("INT8 alone may come to this (")


def test_fine_kernels_pass_as_int8_and_would_not_as_fp32(tmp_path: Path) -> None:
    coarse(tmp_path / "m.onnx", 127, dequantize)
    (parity,) = verify(load_model(NAME), tmp_path / "m.onnx", FRAMES)
    assert (parity.graph, parity.passed) == ("int8-cpu", True)
    assert parity.total.psnr_db < 60


def test_a_fault_in_a_quantised_graph_is_still_named() -> None:
    model = load_model(NAME)
    random, exact = np.random.default_rng(0), reference(model)

    def swapped(frame: Any) -> Any:
        big = exact(frame)[..., ::-1].astype(int)
        return (big + random.normal(0, 2, big.shape)).clip(0, 255).round().astype(np.uint8)

    parity = check_parity(model, swapped, FRAMES, "int8-cpu", gate_of_40_db())
    assert parity.diagnosis.startswith("red and blue swapped on output")


def gate_of_40_db() -> Any:
    from wdsr_edge.proof.gates import LEARNED

    return LEARNED


def test_an_fp32_file_is_held_to_fp32(tmp_path: Path) -> None:
    """Whatever its metadata says."""
    model = onnx.load(ZOO / NAME / "fp32.onnx")
    for kernel in model.graph.initializer:
        if kernel.data_type == TensorProto.FLOAT and len(kernel.dims) == 4:
            values = numpy_helper.to_array(kernel)
            kernel.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32) * 1.004, kernel.name))
    for entry in model.metadata_props:
        if entry.key.endswith("precision"):
            entry.value = '"int8"'
    onnx.save(model, tmp_path / "m.onnx")
    (parity,) = verify(load_model(NAME), tmp_path / "m.onnx", FRAMES)
    assert (parity.graph, parity.passed) == ("fp32", False)
    assert 40 < parity.total.psnr_db < 60, "which INT8 would pass with"


def one_node(op: str, kind: int, **attributes: Any) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, kind, ["N", 3, "H", "W"]) for name in ("x", "y")]
    return helper.make_model(
        helper.make_graph([helper.make_node(op, ["x"], ["y"], **attributes)], "g", *([e] for e in ends))
    )


def branch(inner: onnx.ModelProto) -> onnx.ModelProto:
    return one_node("If", TensorProto.FLOAT, then_branch=inner.graph, else_branch=inner.graph)


HALF = partial(one_node, kind=TensorProto.FLOAT16)


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (one_node("Relu", TensorProto.FLOAT), "fp32"),
        (HALF("Relu"), "fp16"),
        (one_node("Cast", TensorProto.FLOAT, to=TensorProto.FLOAT16), "fp16"),
        (one_node("Cast", TensorProto.FLOAT, to=TensorProto.FLOAT), "fp32"),
        (one_node("QuantizeLinear", TensorProto.FLOAT), "int8-cpu"),
        (one_node("QLinearConv", TensorProto.FLOAT), "int8-cpu"),
        (one_node("QLinearAdd", TensorProto.FLOAT), "int8-cpu"),
        (one_node("ConvInteger", TensorProto.FLOAT), "int8-cpu"),
        (HALF("DequantizeLinear"), "int8"),
        (branch(one_node("QuantizeLinear", TensorProto.FLOAT)), "int8-cpu"),
    ],
)
def test_a_precision_is_told_by_what_a_graph_is_made_of(model: onnx.ModelProto, precision: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert precision_of_file(path) == precision
    path.write_bytes(b"\xff" * 100)
    assert precision_of_file(path) == "fp32"


def test_fp16_at_the_ends_is_taken(tmp_path: Path) -> None:
    """As converters leave it that were not told otherwise."""
    model = onnx.load(ZOO / NAME / "fp32-float.onnx")
    for one in model.graph.initializer:
        if one.data_type == TensorProto.FLOAT:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name))
    for end in (*model.graph.input, *model.graph.output):
        end.type.tensor_type.elem_type = TensorProto.FLOAT16
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "m.onnx")
    (parity,) = verify(load_model(NAME), tmp_path / "m.onnx", FRAMES)
    assert (parity.graph, parity.passed) == ("fp16", True)
