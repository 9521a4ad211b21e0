"""Each pass alone, on graphs small enough to see through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import ModelConfig, build, fold
from wdsr_export.graph import float_graph
from wdsr_export.passes import (
    FLOAT_PASSES,
    UINT8_PASSES,
    Pass,
    fold_input_affine,
    fold_output_affine,
    pad_channels,
    shuffle_in_nhwc,
    uint8_io,
)

Array = NDArray[np.float32]
FOLDS: tuple[Pass, ...] = (fold_input_affine, fold_output_affine, pad_channels, shuffle_in_nhwc)
Node = onnx.NodeProto


class Net:
    """Nodes and constants of a graph in the making: ``lr`` [N, 3, H, W] float unless said otherwise."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: list[TensorProto] = []
        self.rng = np.random.default_rng(0)

    def const(self, name: str, value: object, dtype: object = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))  # type: ignore[arg-type]
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"make_{output}", **attributes))
        return output

    def conv(self, x: str, outputs: int, inputs: int, name: str, kernel: int = 3, group: int = 1) -> str:
        weight = self.const(f"{name}.w", self.rng.normal(0, 0.3, (outputs, inputs // group, kernel, kernel)))
        bias = self.const(f"{name}.b", self.rng.normal(0, 0.3, outputs))
        pads = [kernel // 2] * 4
        return self.node("Conv", [x, weight, bias], name, kernel_shape=[kernel, kernel], pads=pads, group=group)

    def model(
        self, outputs: Sequence[str], lr: Sequence[object] = ("N", 3, "H", "W"), dtype: int = TensorProto.FLOAT
    ) -> ir.Model:
        out_type = TensorProto.UINT8 if self.nodes[-1].op_type == "Cast" else TensorProto.FLOAT
        ends = [helper.make_tensor_value_info(name, out_type, [None] * 4) for name in outputs]
        start = helper.make_tensor_value_info("lr", dtype, list(lr))
        graph = helper.make_graph(self.nodes, "g", [start], ends, self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
        onnx.checker.check_model(proto, full_check=True)
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
        for node in model.graph:  # typed, but without shapes, as ``float_graph`` makes them
            for value in node.outputs:
                value.shape = value.shape if value.is_graph_output() else None
        return model


def per_channel(*values: float) -> Array:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


def run(model: ir.Model, lr: NDArray[np.generic] | None = None) -> list[Array]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    if lr is None:
        lr = photo()
    found: list[Array] = session.run(None, {"lr": lr})
    return found


def photo() -> Array:
    """A real picture whose border is far from the mean colour, two in a batch."""
    frame = golden_frame()[:24, :31].astype(np.float32) / 255
    frame[0], frame[:, 0], frame[-1] = 1.0, 0.0, (1.0, 0.0, 1.0)
    planar = frame.transpose(2, 0, 1)
    return np.stack([planar, planar[:, ::-1, ::-1]])


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def frozen(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def assert_same(before: list[Array], after: list[Array], tolerance: float = 1e-5) -> None:
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert old.shape == new.shape
        assert np.isfinite(new).all()
        assert np.abs(old.astype(np.float64) - new).max() <= tolerance * max(1.0, float(np.abs(old).max()))


def assert_left_alone(run_pass: Pass, model: ir.Model) -> None:
    before, result = frozen(model), run(model)
    saving = run_pass(model)
    assert saving.nodes == 0
    assert_same(result, run(model), 0)
    assert frozen(model) == before


def with_input_affine(net: Net) -> str:
    x = net.node("Sub", ["lr", net.const("m", per_channel(0.4488, 0.4371, 0.4040))], "centred")
    return net.node("Div", [x, net.const("s", 0.5)], "normed")


# fold_input_affine


def test_the_input_affine_becomes_one_sub() -> None:
    net = Net()
    x = with_input_affine(net)
    both = net.node("Add", [net.conv(x, 4, 3, "head"), net.conv(x, 4, 3, "skip", kernel=5)], "sr")
    model = net.model([both])
    before = run(model)
    saving = fold_input_affine(model)
    assert_same(before, run(model))
    assert saving.nodes == 1
    assert ops(model) == {"Sub": 1, "Conv": 2, "Add": 1}
    assert len(model.graph.initializers) == 5  # two kernels, two biases, the mean


@pytest.mark.parametrize(
    "steps",
    [
        [("Div", 255.0), ("Sub", (0.1, 0.5, 0.9)), ("Div", 0.25)],
        [("Mul", (2.0, 3.0, 0.5)), ("Add", 0.25)],
        [("Add", (0.5, -0.25, 1.0))],
        [("Mul", 0.01)],
        [("Sub", (0.1, 0.2, 0.3)), ("Sub", 0.1), ("Mul", (1.0, 2.0, 3.0)), ("Add", (0.0, 0.0, 7.0)), ("Div", 4.0)],
    ],
    ids=str,
)
@pytest.mark.parametrize("constant_first", [False, True])
def test_zero_padding_stays_exact_at_the_border(
    steps: list[tuple[str, float | tuple[float, ...]]], constant_first: bool
) -> None:
    """Zero padding happens after the affine: at the border it stands for the mean colour, not for black."""
    net, x = Net(), "lr"
    for i, (op, value) in enumerate(steps):
        constant = net.const(f"c{i}", per_channel(*value) if isinstance(value, tuple) else value)
        inputs = [constant, x] if constant_first and op in ("Add", "Mul") else [x, constant]
        x = net.node(op, inputs, f"x{i}")
    model = net.model([net.conv(x, 5, 3, "sr", kernel=5)])
    before = run(model)
    fold_input_affine(model)
    after = run(model)
    assert ops(model) == {"Sub": 1, "Conv": 1}
    assert_same(before, after)
    for edge in (np.s_[..., :2, :], np.s_[..., -2:, :], np.s_[..., :, :2], np.s_[..., :, -2:]):
        assert_same([before[0][edge]], [after[0][edge]])


def test_the_input_affine_is_found_behind_cast_and_transpose() -> None:
    net = Net()
    x = net.node("Cast", ["lr"], "float", to=TensorProto.FLOAT)
    x = net.node("Transpose", [x], "planar", perm=[0, 3, 1, 2])
    x = net.node("Div", [x, net.const("s", 255)], "unit")
    model = net.model([net.conv(x, 4, 3, "sr")], ("N", "H", "W", 3), TensorProto.UINT8)
    frame = golden_frame()[None, :20, :20]
    before = run(model, frame)
    fold_input_affine(model)
    assert ops(model) == {"Cast": 1, "Transpose": 1, "Sub": 1, "Conv": 1}
    assert_same(before, run(model, frame))


def test_no_input_affine_is_left_alone() -> None:
    net = Net()
    assert_left_alone(fold_input_affine, net.model([net.conv("lr", 4, 3, "sr")]))


def test_an_input_affine_of_a_grouped_conv_is_left_alone() -> None:
    net = Net()
    assert_left_alone(fold_input_affine, net.model([net.conv(with_input_affine(net), 6, 3, "sr", group=3)]))


def test_an_input_affine_with_another_consumer_is_left_alone() -> None:
    net = Net()
    x = with_input_affine(net)
    net.conv(x, 3, 3, "head")
    assert_left_alone(fold_input_affine, net.model([net.node("Add", ["head", x], "sr")]))


def test_an_input_affine_that_is_also_an_output_is_left_alone() -> None:
    net = Net()
    x = with_input_affine(net)
    assert_left_alone(fold_input_affine, net.model([net.conv(x, 3, 3, "sr"), x]))


def test_an_input_affine_without_convolution_is_left_alone() -> None:
    net = Net()
    assert_left_alone(fold_input_affine, net.model([with_input_affine(net)]))


def test_arithmetic_with_no_constant_is_left_alone() -> None:
    net = Net()
    x = net.node("Mul", ["lr", "lr"], "squared")
    assert_left_alone(fold_input_affine, net.model([net.conv(x, 4, 3, "sr")]))


def test_a_constant_over_another_axis_is_left_alone() -> None:
    """Three values along W, not along the channels."""
    net = Net()
    x = net.node("Sub", ["lr", net.const("m", np.array([0.1, 0.5, 0.9]))], "x")
    model = net.model([net.conv(x, 4, 3, "sr")])
    before = run(model, photo()[..., :3])
    fold_input_affine(model)
    assert_same(before, run(model, photo()[..., :3]))


# fold_output_affine


def with_output_affine(net: Net, x: str, name: str = "sr") -> str:
    x = net.node("Mul", [x, net.const("os", 0.5)], "scaled")
    return net.node("Add", [net.const("om", per_channel(0.4488, 0.4371, 0.4040)), x], name)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_output_affine_goes_into_summed_convs_behind_a_shuffle(scale: int) -> None:
    net, wide = Net(), 3 * scale**2
    x = net.node("Add", [net.conv("lr", wide, 3, "tail"), net.conv("lr", wide, 3, "skip", kernel=5)], "sum")
    x = net.node("DepthToSpace", [x], "shuffled", blocksize=scale, mode="CRD")
    model = net.model([with_output_affine(net, x)])
    before = run(model)
    saving = fold_output_affine(model)
    assert saving.nodes == 2
    assert ops(model) == {"Conv": 2, "Add": 1, "DepthToSpace": 1}
    assert [output.name for output in model.graph.outputs] == ["sr"]
    assert_same(before, run(model))


def test_the_output_affine_goes_into_one_conv() -> None:
    net = Net()
    model = net.model([with_output_affine(net, net.conv("lr", 3, 3, "tail"))])
    before = run(model)
    assert fold_output_affine(model).nodes == 2
    assert ops(model) == {"Conv": 1}
    assert_same(before, run(model))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_each_output_step_for_each_channel(op: str) -> None:
    net = Net()
    x = net.node("DepthToSpace", [net.conv("lr", 12, 3, "tail")], "shuffled", blocksize=2, mode="CRD")
    model = net.model([net.node(op, [x, net.const("c", per_channel(0.5, 2.0, -3.0))], "sr")])
    before = run(model)
    assert fold_output_affine(model).nodes == 1
    assert_same(before, run(model))


def test_the_output_affine_is_found_before_clip_transpose_and_cast() -> None:
    net = Net()
    x = with_output_affine(net, net.conv("lr", 3, 3, "tail"), "levels")
    x = net.node("Clip", [x, net.const("low", 0), net.const("high", 255.5)], "clipped")
    x = net.node("Transpose", [x], "packed", perm=[0, 2, 3, 1])
    model = net.model([net.node("Cast", [x], "sr", to=TensorProto.UINT8)])
    lr = photo() * 400
    before = run(model, lr)
    assert fold_output_affine(model).nodes == 2
    assert np.abs(before[0].astype(int) - run(model, lr)[0]).max() <= 1


def test_two_shuffles_in_a_row() -> None:
    net, x = Net(), ""
    x = net.conv("lr", 48, 3, "tail")
    for i in (0, 1):
        x = net.node("DepthToSpace", [x], f"shuffled{i}", blocksize=2, mode="CRD")
    model = net.model([with_output_affine(net, x)])
    before = run(model)
    assert fold_output_affine(model).nodes == 2
    assert_same(before, run(model))


def test_no_output_affine_is_left_alone() -> None:
    net = Net()
    assert_left_alone(fold_output_affine, net.model([net.conv("lr", 3, 3, "sr")]))


def test_an_output_affine_behind_a_shuffle_in_another_order_is_left_alone() -> None:
    net = Net()
    x = net.node("DepthToSpace", [net.conv("lr", 12, 3, "tail")], "shuffled", blocksize=2, mode="DCR")
    assert_left_alone(fold_output_affine, net.model([with_output_affine(net, x)]))


@pytest.mark.parametrize("tapped", ["tail", "sum", "shuffled", "scaled"])
def test_an_output_affine_whose_source_is_used_elsewhere_keeps_every_output(tapped: str) -> None:
    net = Net()
    x = net.node("Add", [net.conv("lr", 12, 3, "tail"), net.conv("lr", 12, 3, "skip")], "sum")
    x = net.node("DepthToSpace", [x], "shuffled", blocksize=2, mode="CRD")
    x = with_output_affine(net, x)
    net.node("Relu", [tapped], "tap")
    model = net.model([x, "tap"])
    before = run(model)
    fold_output_affine(model)
    assert_same(before, run(model))


def test_an_output_affine_behind_something_else_is_left_alone() -> None:
    net = Net()
    x = net.node("Relu", [net.conv("lr", 3, 3, "tail")], "positive")
    assert_left_alone(fold_output_affine, net.model([with_output_affine(net, x)]))


def test_an_output_affine_behind_a_residual_is_left_alone() -> None:
    net = Net()
    x = net.node("Add", [net.conv("lr", 3, 3, "tail"), "lr"], "sum")
    assert_left_alone(fold_output_affine, net.model([with_output_affine(net, x)]))


# pad_channels


@pytest.mark.parametrize(("width", "padded"), [(25, 32), (1, 8), (7, 8), (9, 16)])
def test_odd_widths_are_padded_with_zeros(width: int, padded: int) -> None:
    net = Net()
    model = net.model([net.conv(net.conv("lr", width, 3, "low", kernel=1), 8, width, "sr")])
    before = run(model)
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    saving = pad_channels(model)
    assert f"{width}->{padded}" in saving.detail
    assert saving.nodes == 0
    after = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    assert after["low.w"].shape[0] == after["low.b"].shape[0] == after["sr.w"].shape[1] == padded
    np.testing.assert_array_equal(after["low.w"][:width], weights["low.w"])
    np.testing.assert_array_equal(after["low.b"][:width], weights["low.b"])
    np.testing.assert_array_equal(after["sr.w"][:, :width], weights["sr.w"])
    assert not after["low.w"][width:].any()
    assert not after["low.b"][width:].any()
    assert not after["sr.w"][:, width:].any()
    assert after["sr.b"].shape == (8,)
    assert_same(before, run(model), 1e-6)


def test_even_widths_are_left_alone() -> None:
    net = Net()
    assert_left_alone(pad_channels, net.model([net.conv(net.conv("lr", 16, 3, "a"), 3, 16, "sr")]))


@pytest.mark.parametrize("grouped", ["a", "sr"])
def test_grouped_convs_are_not_padded(grouped: str) -> None:
    net = Net()
    x = net.conv("lr", 9, 3, "a", group=3 if grouped == "a" else 1)
    assert_left_alone(pad_channels, net.model([net.conv(x, 9, 9, "sr", group=3 if grouped == "sr" else 1)]))


def test_a_width_with_another_consumer_is_not_padded() -> None:
    net = Net()
    x = net.conv("lr", 5, 3, "a")
    assert_left_alone(pad_channels, net.model([net.node("Add", [net.conv(x, 5, 5, "b"), x], "sr")]))


def test_a_width_that_is_an_output_is_not_padded() -> None:
    net = Net()
    x = net.conv("lr", 5, 3, "a")
    assert_left_alone(pad_channels, net.model([net.conv(x, 5, 5, "sr"), x]))


def test_a_width_with_a_relu_between_is_not_padded() -> None:
    net = Net()
    x = net.node("Relu", [net.conv("lr", 5, 3, "a")], "r")
    assert_left_alone(pad_channels, net.model([net.conv(x, 5, 5, "sr")]))


# uint8_io and shuffle_in_nhwc


def lossless(model: ir.Model, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the float graph means for uint8, by numpy."""
    sr = run(model, (frame.astype(np.float32) / 255).transpose(0, 3, 1, 2))[0]
    levels: NDArray[np.uint8] = np.clip(np.floor(sr * 255 + 0.5), 0, 255).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def network(name: str) -> ir.Model:
    import torch

    torch.manual_seed(0)
    return float_graph(fold(build(ModelConfig.from_name(name))))


@pytest.mark.parametrize("name", ["edsr-1x4-x3", "wdsr-a-1x4-x2", "wdsr-b-1x5-x4"])
def test_uint8_io_rounds_and_clips(name: str) -> None:
    model = network(name)
    frame = np.stack([golden_frame()[:20, :30], golden_frame()[20:40, :30]])
    expected = lossless(model, frame)
    nodes = model.graph.num_nodes()
    saving = uint8_io(model)
    assert saving.nodes == nodes - model.graph.num_nodes()
    sequence = [node.op_type for node in model.graph]
    assert (sequence[0], sequence[-1]) == ("Cast", "Cast")
    found = run(model, frame)[0]
    assert found.dtype == np.uint8
    apart = np.abs(found.astype(int) - expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3


def test_uint8_io_takes_every_level_through() -> None:
    """An identity network gives back all 256 levels, and what lies outside is clipped."""
    net = Net()
    eye = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    model = net.model([net.node("Conv", ["lr", net.const("w", eye), net.const("b", [0, 0, 0])], "sr")])
    uint8_io(model)
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(run(model, levels)[0], levels)
    for bias, expected in ((0.4, levels.astype(int) + 102), (-0.4, levels.astype(int) - 102)):
        net = Net()
        model = net.model([net.node("Conv", ["lr", net.const("w", eye), net.const("b", [bias] * 3)], "sr")])
        uint8_io(model)
        assert np.abs(run(model, levels)[0].astype(int) - expected.clip(0, 255)).max() <= 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_shuffle_in_nhwc_is_exact(scale: int) -> None:
    model = network(f"wdsr-b-1x8-x{scale}")
    uint8_io(model)
    fold_output_affine(model)
    frame = np.stack([golden_frame()[:20, :30], golden_frame()[20:40, :30]])
    before, nodes = run(model, frame), model.graph.num_nodes()
    saving = shuffle_in_nhwc(model)
    model.graph.sort()
    assert saving.nodes == nodes - model.graph.num_nodes()
    assert ops(model)["DepthToSpace"] == 0
    assert ops(model)["Cast"] == 2
    np.testing.assert_array_equal(run(model, frame)[0], before[0])


def shuffled_net(mode: str = "CRD", second: bool = False, tap: str = "") -> ir.Model:
    net = Net()
    x = net.node("Cast", ["lr"], "float", to=TensorProto.FLOAT)
    x = net.node("Transpose", [x], "planar", perm=[0, 3, 1, 2])
    x = net.conv(x, 12, 3, "tail")
    if second:
        x = net.node("Relu", [x], "positive")
    x = net.node("DepthToSpace", [x], "shuffled", blocksize=2, mode=mode)
    x = net.node("Clip", [x, net.const("low", 0), net.const("high", 255.5)], "clipped")
    outputs = ["sr"]
    if tap:
        t = net.node("Clip", [tap, "low", "high"], "tap_clipped")
        net.node("Cast", [t], "tap", to=TensorProto.UINT8)
        outputs.append("tap")
    x = net.node("Transpose", [x], "packed", perm=[0, 2, 3, 1])
    net.node("Cast", [x], "sr", to=TensorProto.UINT8)
    return net.model(outputs, ("N", "H", "W", 3), TensorProto.UINT8)


@pytest.mark.parametrize(
    "model",
    [shuffled_net("DCR"), shuffled_net(second=True), shuffled_net(tap="tail")],
    ids=["another order", "behind a relu", "another consumer of the conv"],
)
def test_other_shuffles_are_left_alone(model: ir.Model) -> None:
    before = frozen(model)
    assert shuffle_in_nhwc(model).nodes == 0
    assert frozen(model) == before


@pytest.mark.parametrize("tap", ["shuffled", "clipped"])
def test_a_shuffle_with_another_consumer_keeps_every_output(tap: str) -> None:
    model, frame = shuffled_net(tap=tap), golden_frame()[None, :12, :16]
    before = run(model, frame)
    shuffle_in_nhwc(model)
    model.graph.sort()
    assert_same(before, run(model, frame), 0)


def test_a_graph_without_shuffle_at_its_end_is_left_alone() -> None:
    net = Net()
    assert_left_alone(shuffle_in_nhwc, net.model([net.conv("lr", 3, 3, "sr")]))
    model = network("edsr-1x4-x2")
    uint8_io(model)
    before = frozen(model)
    shuffle_in_nhwc(model)
    assert frozen(model) == before


# all of them


@pytest.mark.parametrize("name", ["edsr-1x5-x4", "wdsr-a-1x5-x3", "wdsr-b-2x6-x2"])
@pytest.mark.parametrize("run_pass", FOLDS, ids=lambda run_pass: run_pass.__name__)
def test_passes_are_idempotent(run_pass: Pass, name: str) -> None:
    model, frame = network(name), golden_frame()[None, :20, :30]
    uint8_io(model)
    run_pass(model)
    model.graph.sort()
    once, result = ops(model), run(model, frame)
    shapes = sorted(value.const_value.shape.numpy() for value in model.graph.initializers.values())  # type: ignore[union-attr]
    run_pass(model)
    model.graph.sort()
    assert ops(model) == once
    again = sorted(value.const_value.shape.numpy() for value in model.graph.initializers.values())  # type: ignore[union-attr]
    assert again == shapes
    assert_same(result, run(model, frame), 0)


@pytest.mark.parametrize("name", ["edsr-1x5-x4", "wdsr-a-1x5-x3", "wdsr-b-2x6-x2"])
@pytest.mark.parametrize("passes", [UINT8_PASSES, FLOAT_PASSES], ids=["uint8", "float32"])
def test_savings_add_up(passes: tuple[Pass, ...], name: str) -> None:
    model = network(name)
    nodes = model.graph.num_nodes()
    savings = [run_pass(model) for run_pass in passes]
    assert [saving.name for saving in savings] == [run_pass.__name__ for run_pass in passes]
    assert nodes - sum(saving.nodes for saving in savings) == model.graph.num_nodes()
