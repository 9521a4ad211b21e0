"""The wire-format reader against the onnx package, and against files that want to get past it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from wdsr_edge import BundleError
from wdsr_edge.models import ModelConfig, build
from wdsr_edge.onnx_reader import OPERATORS, OnnxSummary, read_onnx
from wdsr_export import export_onnx


def exported(
    folder: Path, name: str = "wdsr-b-1x2-x2", io: str = "uint8", size: tuple[int, int] | None = None
) -> bytes:
    torch.manual_seed(0)
    export_onnx(build(ModelConfig.from_name(name)), folder / "m.onnx", io=io, size=size)  # type: ignore[arg-type]
    return (folder / "m.onnx").read_bytes()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return exported(tmp_path_factory.mktemp("onnx"))


@pytest.fixture
def model(good: bytes) -> onnx.ModelProto:
    return onnx.load_model_from_string(good)


def by_onnx(data: bytes) -> OnnxSummary:
    """What the onnx package makes of the same bytes."""
    model = onnx.load_model_from_string(data)

    def ends(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[str, tuple[int | str, ...]]]:
        found: dict[str, tuple[str, tuple[int | str, ...]]] = {}
        for value in values:
            tensor = value.type.tensor_type
            dims = tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in tensor.shape.dim)
            found[value.name] = ({1: "float32", 2: "uint8"}.get(tensor.elem_type, f"type {tensor.elem_type}"), dims)
        return found

    (opset,) = (entry.version for entry in model.opset_import)
    operators = Counter(node.op_type for node in model.graph.node)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return OnnxSummary(opset, ends(model.graph.input), ends(model.graph.output), operators, metadata)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [None, (7, 300)])
@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("name", ["edsr-1x4-x4", "wdsr-a-2x4-x3", "wdsr-b-2x4-x2"])
def test_it_agrees_with_the_onnx_package(name: str, io: str, size: tuple[int, int] | None, tmp_path: Path) -> None:
    data = exported(tmp_path, name, io, size)
    summary = read_onnx(data)
    assert summary == by_onnx(data)
    assert summary.opset == 19
    assert summary.operators.keys() <= OPERATORS
    assert summary.inputs["lr"][0] == io
    assert len(summary.metadata) >= 8


def test_every_truncation(good: bytes) -> None:
    """Refused, or read exactly as the onnx package reads it."""
    read = 0
    for length in range(0, len(good), 1 if len(good) < 12000 else 3):
        part = good[:length]
        try:
            summary = read_onnx(part)
        except BundleError:
            continue
        read += 1
        theirs = onnx.load_model_from_string(part)
        assert Counter(node.op_type for node in theirs.graph.node) == summary.operators
        assert {entry.key: entry.value for entry in theirs.metadata_props} == summary.metadata
    assert read < 50  # only where the file ends between two top-level fields


@settings(max_examples=300, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_are_refused_or_read_as_onnx_reads_them(flips: list[tuple[int, int]], flippable: bytes) -> None:
    data = bytearray(flippable)
    for position, bits in flips:
        data[position % len(data)] ^= bits
    try:
        summary = read_onnx(bytes(data))
    except BundleError:
        return
    try:
        theirs = onnx.load_model_from_string(bytes(data))
    except DecodeError:
        return
    assert Counter(node.op_type for node in theirs.graph.node) == summary.operators
    assert {value.name for value in theirs.graph.input} == set(summary.inputs)


@pytest.fixture(scope="module")
def flippable(good: bytes) -> bytes:
    """The good file without its weights, so that a flip hits structure."""
    model = onnx.load_model_from_string(good)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    return model.SerializeToString()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        read_onnx(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xff" * 100, b"\x80" * 10_000_000, b"GIF89a", b"\x3a\x00", b"\x3a\xff\xff\xff\xff\x7f"]
)
def test_no_graph_at_all(data: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        read_onnx(data)
    assert "\n" not in str(caught.value)


def external(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def branch() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])
    return helper.make_graph([], "branch", [], [value])


def plant_external(m: onnx.ModelProto) -> None:
    external(m.graph.initializer[0])


def plant_location_only(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].data_location = TensorProto.EXTERNAL


def plant_external_key_only(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].external_data.add(key="location", value="x")


def plant_external_attribute(m: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    external(tensor)
    m.graph.node[0].attribute.append(helper.make_attribute("value", tensor))


def plant_external_attribute_list(m: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    external(tensor)
    m.graph.node[0].attribute.append(helper.make_attribute("values", [tensor]))


def plant_domain(m: onnx.ModelProto) -> None:
    m.graph.node[0].domain = "com.microsoft"


def plant_operator_set(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))


def plant_function(m: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    m.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [node], [helper.make_opsetid("", 19)]))


def plant_if(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch(), else_branch=branch()))


def plant_loop(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("Loop", ["", "c"], ["d"], body=branch()))


def plant_subgraph_in_a_known_operator(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("body", branch()))


def plant_subgraph_list(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("bodies", [branch()]))


def plant_unknown_operator(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("Softsign", ["lr_float"], ["d"]))


def plant_nameless_operator(m: onnx.ModelProto) -> None:
    m.graph.node[0].ClearField("op_type")


def plant_sparse(m: onnx.ModelProto) -> None:
    m.graph.sparse_initializer.add()


PLANTS: dict[str, Callable[[onnx.ModelProto], None]] = {
    name.removeprefix("plant_").replace("_", " "): plant
    for name, plant in list(globals().items())
    if name.startswith("plant_")
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_what_no_bundle_of_ours_holds_is_refused(
    plant: Callable[[onnx.ModelProto], None], model: onnx.ModelProto
) -> None:
    plant(model)
    with pytest.raises(BundleError, match="refused"):
        read_onnx(model.SerializeToString())


# What a protobuf parser reads in another way than a plain look at the fields.


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, payload: bytes, wire: int = 2) -> bytes:
    return varint(number << 3 | wire) + (varint(len(payload)) if wire == 2 else b"") + payload


def overlong(number: int, payload: bytes) -> bytes:
    """The same field for protobuf, which drops the tag's bits above the 32nd."""
    tag = number << 3 | 2
    head = bytes([tag & 127 | 128, tag >> 7 & 127 | 128, 128, 128, 16])
    return head + varint(len(payload)) + payload


def evil_node() -> bytes:
    data: bytes = helper.make_node("Softsign", ["lr_float"], ["evil"], name="evil").SerializeToString()
    return data


def evil_tensor() -> bytes:
    tensor = helper.make_tensor("evil", TensorProto.FLOAT, [1], [1.0])
    external(tensor)
    data: bytes = tensor.SerializeToString()
    return data


def parts(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The graph, and the model without it."""
    graph = model.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    return graph, rest.SerializeToString()


@pytest.mark.parametrize("evil", [field(1, evil_node()), field(5, evil_tensor())], ids=["operator", "external data"])
def test_a_graph_in_two_pieces_hides_nothing(evil: bytes, model: onnx.ModelProto) -> None:
    """protobuf joins a message that comes twice."""
    graph, rest = parts(model)
    data = field(7, evil) + field(7, graph) + rest
    joined = onnx.load_model_from_string(data).graph
    assert len(joined.node) + len(joined.initializer) > len(model.graph.node) + len(model.graph.initializer)
    with pytest.raises(BundleError):
        read_onnx(data)


@pytest.mark.parametrize(
    "evil", [overlong(1, evil_node()), overlong(5, evil_tensor())], ids=["operator", "external data"]
)
def test_a_field_number_beyond_32_bits_is_refused(evil: bytes, model: onnx.ModelProto) -> None:
    """ONNX Runtime's protobuf reads it modulo 2 ** 32."""
    graph, rest = parts(model)
    with pytest.raises(BundleError):
        read_onnx(field(7, graph + evil) + rest)


@pytest.mark.parametrize("wire", [1, 5])
def test_a_field_of_the_wrong_wire_type_disguises_nothing(wire: int, model: onnx.ModelProto) -> None:
    """protobuf skips an op_type that is no string: the earlier one holds."""
    graph, rest = parts(model)
    disguise = field(4, b"Conv" if wire == 5 else b"Reshape\0"[:8], wire)
    data = field(7, graph + field(1, evil_node() + disguise)) + rest
    assert onnx.load_model_from_string(data).graph.node[-1].op_type == "Softsign"
    with pytest.raises(BundleError):
        read_onnx(data)


def test_an_attribute_tensor_in_two_pieces_hides_nothing(model: onnx.ModelProto) -> None:
    graph, rest = parts(model)
    plain = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]).SerializeToString()
    attribute = field(1, b"value") + field(5, evil_tensor()) + field(5, plain)
    node = helper.make_node("Relu", ["lr_float"], ["n"]).SerializeToString() + field(5, attribute)
    with pytest.raises(BundleError, match="external data"):
        read_onnx(field(7, graph + field(1, node)) + rest)


def test_an_interface_of_two_values_with_one_name_is_not_hidden(model: onnx.ModelProto) -> None:
    second = model.graph.input.add()
    second.CopyFrom(model.graph.input[0])
    second.type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(BundleError):
        read_onnx(model.SerializeToString())
