"""What an engine computes in: read from what TensorRT for RTX really logs, and from made-up inspector dumps.

The JSON here is made up, after the examples in NVIDIA's documentation of the engine inspector: a real dump needs a GPU.
"""

from __future__ import annotations

import json
from typing import Any

import onnx
import pytest

from wdsr_edge import Bundle, BundleError
from wdsr_edge.backends.tensorrt.audit import audit, check_graph, read_layers
from wdsr_edge.backends.tensorrt.build_process import build_apart
from wdsr_edge.backends.tensorrt.config import EngineConfig, Profile
from wdsr_edge.bundle import Precision
from wdsr_edge.loading import find_bundle, zoo_names
from wdsr_edge.onnx_reader import conv_precisions

BUNDLE = Bundle.load(find_bundle("wdsr-b-1x32-x2"))
CONVS = ("head", "body.0.branch.0", "body.0.branch.2", "body.0.branch.3", "tail", "skip")
CAMERA = Profile.static(24, 32)


def logged(bundle: Bundle, precision: Precision, sm: int, *profiles: Profile) -> str:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    config = EngineConfig(profiles or (CAMERA, CAMERA.rotated()), sm=(sm,))
    return build_apart("tensorrt-rtx", bundle.onnx(precision), config, precision=precision).layers


def dump(field: str, types: dict[str, str], **others: Any) -> str:
    """A made-up inspector dump in which each convolution reads a tensor of a type."""
    layers: list[Any] = [
        {
            "Name": f"{name} + relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", field: kind}],
            "Outputs": [{"Name": "y", field: "Row major linear FP32"}],
            "Metadata": f"[ONNX Layer: {name}]\x1f[ONNX Layer: relu]",
        }
        for name, kind in types.items()
    ]
    layers.append({"Name": "Reformatting CopyNode for Input Tensor 0", "LayerType": "Reformat", "Inputs": []})
    return json.dumps({"Layers": layers, **others})


def test_what_is_asked_for_is_the_type_of_the_kernel() -> None:
    assert conv_precisions(BUNDLE.onnx("fp32")) == dict.fromkeys(CONVS, "fp32")
    assert conv_precisions(BUNDLE.onnx("fp16")) == dict.fromkeys(CONVS, "fp16")
    body = {name: "int8" if name.startswith("body.") else "fp16" for name in CONVS}
    assert conv_precisions(BUNDLE.onnx("int8")) == body


def test_a_kernel_that_is_no_constant_is_refused() -> None:
    with pytest.raises(BundleError, match="cannot be told"):
        conv_precisions(BUNDLE.onnx("fp32").replace(b"head.weight", b"head.weighs", 1))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", zoo_names())
def test_every_shipped_model_builds_and_runs_in_what_it_asks_for(name: str, precision: Precision) -> None:
    bundle = Bundle.load(find_bundle(name))
    for sm in (89, 120):
        found = audit(bundle.onnx(precision), logged(bundle, precision, sm), 2)
        assert found.passed, found.faults
        assert found.convolutions == len(bundle.config.convs)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_real_engine_runs_in_what_it_asks_for(precision: Precision) -> None:
    found = audit(BUNDLE.onnx(precision), logged(BUNDLE, precision, 86), 2)
    assert found.passed, found.faults
    assert found.convolutions == len(CONVS)


@pytest.mark.parametrize("profiles", [(CAMERA,), (Profile.static(1, 1),), (Profile.static(1, 1), CAMERA)], ids=str)
def test_each_profile_is_looked_at(profiles: tuple[Profile, ...]) -> None:
    """For a single pixel, convolutions are fused with the adds behind them."""
    text = logged(BUNDLE, "fp16", 89, *profiles)
    assert audit(BUNDLE.onnx("fp16"), text, len(profiles)).passed
    found = audit(BUNDLE.onnx("fp16"), text, len(profiles) + 1)
    assert found.faults[0] == "head asked for fp16 and runs in a layer that is not told of, fp16" or len(profiles) == 1
    assert len(found.faults) == len(CONVS)


def test_int8_that_is_not_fused_is_told() -> None:
    """TensorRT for RTX 1.7 lets INT8 convolutions write FP32, and rounds that in another layer."""
    assert audit(BUNDLE.onnx("int8"), logged(BUNDLE, "int8", 89), 2).widened == list(CONVS[1:4])
    assert not audit(BUNDLE.onnx("fp16"), logged(BUNDLE, "fp16", 89), 2).widened


def test_turing_runs_int8_in_fp16_which_is_found() -> None:
    """TensorRT for RTX 1.7 builds such an engine without a word."""
    found = audit(BUNDLE.onnx("int8"), logged(BUNDLE, "int8", 75), 2)
    assert found.faults == [f"{name} asked for int8 and runs in fp16" for name in CONVS[1:4]]


def test_an_engine_of_another_precision_is_found() -> None:
    found = audit(BUNDLE.onnx("fp16"), logged(BUNDLE, "fp32", 89), 2)
    assert [fault.partition(" ")[2] for fault in found.faults] == ["asked for fp16 and runs in fp32"] * len(CONVS)


@pytest.mark.parametrize("field", ["Format/Datatype", "Datatype"])
@pytest.mark.parametrize(
    "words", ["Half", "Row major linear FP16 format", "Channel major FP16 format where channel % 8 == 0"]
)
def test_an_inspector_dump_is_read(field: str, words: str) -> None:
    found = audit(BUNDLE.onnx("fp16"), dump(field, dict.fromkeys(CONVS, words), Bindings=["lr", "sr"]))
    assert found.passed, found.faults
    assert found.reformats == ["Reformatting CopyNode for Input Tensor 0"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("Row major linear FP32", "tail asked for fp16 and runs in fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "tail asked for fp16 and runs in int8"),
        ("", "tail asked for fp16 and runs in a precision that is not told"),
        ("BFloat16", "tail asked for fp16 and runs in a precision that is not told"),
        ("Half or Int8", "tail asked for fp16 and runs in a precision that is not told"),
    ],
)
def test_one_layer_that_differs_fails(words: str, fault: str) -> None:
    found = audit(BUNDLE.onnx("fp16"), dump("Format/Datatype", dict.fromkeys(CONVS, "Half") | {"tail": words}))
    assert found.faults == [fault]
    assert not found.passed


def test_a_dla_is_believed_if_it_names_the_convolutions() -> None:
    layer = {
        "Name": "{ForeignNode[head...tail]}",
        "LayerType": "DLA",
        "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 16 == 0"}],
        "Metadata": "".join(f"[ONNX Layer: {name}]" for name in CONVS),
    }
    assert audit(BUNDLE.onnx("fp16"), json.dumps({"Layers": [layer]})).passed
    silent = layer | {"Metadata": ""}
    assert len(audit(BUNDLE.onnx("fp16"), json.dumps({"Layers": [silent]})).faults) == len(CONVS)


def test_a_graph_in_another_precision_than_it_is_said_to_be_in_is_refused() -> None:
    for precision in ("fp32", "fp16", "int8"):
        check_graph(BUNDLE.onnx(precision), precision)
    check_graph(BUNDLE.onnx("int8"), "fp16")  # as its head is
    for graph, precision in (("fp32", "fp16"), ("fp32", "int8"), ("fp16", "int8"), ("fp16", "fp32")):
        with pytest.raises(BundleError, match=f"no convolution of the {precision} graph asks for {precision}: deploy"):
            check_graph(BUNDLE.onnx(graph), precision)


@pytest.mark.parametrize("name", ["", "head", "head] [ONNX Layer: tail"])
def test_convolutions_that_layers_cannot_be_told_by_are_refused(name: str) -> None:
    """Else one of two with the same name could run in anything."""
    model = onnx.load_model_from_string(BUNDLE.onnx("int8"))
    next(node for node in model.graph.node if node.name == "tail").name = name
    with pytest.raises(BundleError, match="no name of its own has the convolution"):
        conv_precisions(model.SerializeToString())


def test_a_layer_that_is_missing_fails() -> None:
    found = audit(BUNDLE.onnx("fp16"), dump("Datatype", dict.fromkeys(CONVS[1:], "Half")))
    assert found.faults == ["head asked for fp16 and runs in a layer that is not told of"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"Layers": ["head"]}', '{"Layers": 3}', '{"Layers": [{"Inputs": 3}]}', "{" * 100_000]
)
def test_what_tells_nothing_fails(text: str) -> None:
    assert read_layers(text) == []
    assert len(audit(BUNDLE.onnx("fp16"), text).faults) == len(CONVS)
