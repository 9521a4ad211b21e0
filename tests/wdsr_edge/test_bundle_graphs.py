"""The graphs of a bundle, spoiled by somebody who mended the hash."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import wdsr_edge
from tests.bundles import one_line, refused, replace
from wdsr_edge import WdsrError
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import ModelConfig, build
from wdsr_export import export_onnx


def external_data(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def custom_domain(m: onnx.ModelProto) -> None:
    m.graph.node[1].domain = "com.evil"


def custom_operator_set(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("com.evil", 1))


def functions(m: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    m.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [node], [helper.make_opsetid("", 19)]))


def loop(m: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    m.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=body))


def branches(m: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    m.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=body, else_branch=body))


def unknown_operator(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("RandomNormal", [], ["x"], shape=[1 << 40]))


def other_input_name(m: onnx.ModelProto) -> None:
    m.graph.input[0].name = "image"


def float_input(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def two_inputs(m: onnx.ModelProto) -> None:
    second = m.graph.input.add()
    second.CopyFrom(m.graph.input[0])
    second.name = "second"


def two_outputs(m: onnx.ModelProto) -> None:
    second = m.graph.output.add()
    second.CopyFrom(m.graph.output[0])
    second.name = "second"


def input_as_first_output(m: onnx.ModelProto) -> None:
    sr = onnx.ValueInfoProto()
    sr.CopyFrom(m.graph.output[0])
    del m.graph.output[:]
    m.graph.output.extend([m.graph.input[0], sr])


def no_output(m: onnx.ModelProto) -> None:
    del m.graph.output[:]


def rank(m: onnx.ModelProto) -> None:
    del m.graph.output[0].type.tensor_type.shape.dim[0]


def no_metadata(m: onnx.ModelProto) -> None:
    del m.metadata_props[:]


def bgr(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith("color_order")).value = '"bgr"'


def another_scale(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith("scale")).value = "3"


def less_halo(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith("halo")).value = "0"


def another_config(m: onnx.ModelProto) -> None:
    entry = next(entry for entry in m.metadata_props if entry.key.endswith("config"))
    entry.value = entry.value.replace('"std": 0.5', '"std": 1.0')


def nested_config(m: onnx.ModelProto) -> None:
    entry = next(entry for entry in m.metadata_props if entry.key.endswith("config"))
    entry.value = "[" * 100_000


def huge_number(m: onnx.ModelProto) -> None:
    entry = next(entry for entry in m.metadata_props if entry.key.endswith("config"))
    entry.value = entry.value.replace('"std": 0.5', '"std": 1' + "0" * 400)


def another_io(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith(".io")).value = '"float32"'


SPOILERS = (
    external_data, custom_domain, custom_operator_set, functions, loop, branches, unknown_operator, other_input_name,
    float_input, two_inputs, two_outputs, input_as_first_output, no_output, rank, no_metadata, bgr, another_scale,
    less_halo, another_config, nested_config, huge_number, another_io,
)  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_a_hostile_graph(spoil: Callable[[onnx.ModelProto], None], bundle: Path) -> None:
    model = onnx.load(bundle / "fp32.onnx")
    spoil(model)
    replace(bundle, "fp32.onnx", model.SerializeToString())
    refused(bundle, r"fp32\.onnx")


def test_the_graph_of_another_model(bundle: Path, tmp_path: Path) -> None:
    export_onnx(build(ModelConfig("wdsr-b", 1, 4, 2)), tmp_path / "other.onnx")
    replace(bundle, "fp32.onnx", (tmp_path / "other.onnx").read_bytes())
    refused(bundle, "disagrees")


def test_the_two_graphs_swapped(bundle: Path) -> None:
    uint8, floats = (bundle / "fp32.onnx").read_bytes(), (bundle / "fp32-float.onnx").read_bytes()
    replace(bundle, "fp32.onnx", floats)
    replace(bundle, "fp32-float.onnx", uint8)
    refused(bundle, "interface")


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 1000, b"\x7fELF", pickle.dumps([1])])
def test_a_graph_that_is_none(data: bytes, bundle: Path) -> None:
    replace(bundle, "fp32.onnx", data)
    refused(bundle, r"fp32\.onnx")


@pytest.mark.parametrize("seed", range(6))
def test_random_flips_in_a_graph(seed: int, bundle: Path) -> None:
    """Only WdsrError comes out of load, and of a frame. Seeds are fixed: an engine is native code."""
    draw = random.Random(seed)
    data = (bundle / "fp32.onnx").read_bytes()
    frame = golden_frame()[:8, :8]
    for _ in range(20):
        spoiled = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 5))):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        replace(bundle, "fp32.onnx", bytes(spoiled))
        try:
            with wdsr_edge.load(bundle) as sr:
                sr(frame)
        except WdsrError as error:
            one_line(error)


def test_a_graph_that_makes_another_size_is_refused(bundle: Path) -> None:
    """The contract says x2; the graph crops nothing and enlarges nothing."""
    model = onnx.load(bundle / "fp32.onnx")
    nodes = [
        helper.make_node("Cast", ["lr"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["f"], ["sr"], to=TensorProto.UINT8),
    ]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    for i, dim in enumerate(("a", "b", "c")):
        model.graph.output[0].type.tensor_type.shape.dim[i].dim_param = dim
    replace(bundle, "fp32.onnx", model.SerializeToString())
    with pytest.raises(WdsrError):  # noqa: PT012
        sr = wdsr_edge.load(bundle, tile=16)
        sr(golden_frame()[:40, :40])
    with pytest.raises(WdsrError):  # noqa: PT012
        sr = wdsr_edge.load(bundle)
        assert sr(golden_frame()[:8, :8]).shape == (16, 16, 3)
