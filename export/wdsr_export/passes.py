"""Rewrites from the traced float graph to the deploy graph, one function each.

A pass changes the model in place and says what it saved. Each leaves the graph's result as it was, to rounding;
``uint8_io`` alone changes the interface. They work on the graph structure, not on names, and leave alone what they
do not recognise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from wdsr_calibration.constants import array, set_array

from .graph import Builder

Array = NDArray[np.float64]


class Saving(NamedTuple):
    """Result of one graph pass."""

    name: str
    nodes: int
    """Nodes removed; negative where it had to add some."""
    detail: str
    """The change, and why it helps."""


Pass = Callable[[ir.Model], Saving]


def uint8_io(model: ir.Model) -> Saving:
    """uint8 NHWC at both ends, spelled out plainly; the other passes fold it.

    Cast and Transpose lead in, Clip, Transpose and Cast lead out. A float is cut off when cast to an integer, so
    0.5 is added first: with the bounds [0, 255.5] that rounds to the nearest level. TensorRT takes uint8 only at a
    Cast on the graph's ends.
    """
    graph = model.graph
    (lr,), (sr,) = graph.inputs, graph.outputs
    assert lr.shape is not None
    assert sr.shape is not None
    (n, _, h, w), (_, _, big_h, big_w) = ir.Shape(lr.shape).dims, ir.Shape(sr.shape).dims
    before = graph.num_nodes()
    users = [(use.node, use.idx) for use in lr.uses()]
    first, body = next(iter(graph)), Builder(graph)
    frame = ir.val("lr", ir.DataType.UINT8, ir.Shape([n, h, w, 3]))
    graph.inputs[0] = frame
    lr.name, sr.name = "lr_planar", "sr_planar"
    cast = body.node("Cast", "lr_float", [frame], to=ir.DataType.FLOAT)
    planar = body.node("Transpose", "lr_planar", [cast], perm=[0, 3, 1, 2])
    unit = body.node("Div", "lr_unit", [planar, body.constant("levels", np.float32(255))])
    entry = [value.producer() for value in (cast, planar, unit)]
    for node in entry:
        assert node is not None
        graph.remove(node)
        graph.insert_before(first, node)
    for user, index in users:
        user.replace_input_with(index, unit)
    levels = body.node("Mul", "sr_levels", [sr, body.constant("levels_out", np.float32(255))])
    half = body.node("Add", "sr_half_up", [levels, body.constant("half", np.float32(0.5))])
    bounds = [body.constant("lowest", np.float32(0)), body.constant("highest", np.float32(255.5))]
    clipped = body.node("Clip", "sr_clipped", [half, *bounds])
    packed = body.node("Transpose", "sr_packed", [clipped], perm=[0, 2, 3, 1])
    out = body.node("Cast", "sr", [packed], to=ir.DataType.UINT8)
    out.dtype, out.shape = ir.DataType.UINT8, ir.Shape([n, big_h, big_w, 3])
    sr.shape = None
    graph.outputs[0] = out
    return Saving("uint8_io", before - graph.num_nodes(), "uint8 NHWC in and out: a quarter of the bytes to copy")


def fold_input_affine(model: ir.Model) -> Saving:
    """The arithmetic before the first convolutions as one Sub, its factor folded into their kernels.

    The mean stays a Sub, because zero padding happens after it: the border pads with the mean colour.
    """
    graph = model.graph
    before = graph.num_nodes()
    start = graph.inputs[0]
    while (step := _only_user(start)) is not None and step.op_type in ("Cast", "Transpose"):
        start = step.outputs[0]
    factor, shift, end, chain = np.ones(3), np.zeros(3), start, []
    while (step := _only_user(end)) is not None and (constant := _channel_constant(step)) is not None:
        factor, shift = _affine_step(step.op_type, factor, shift, constant)
        end = step.outputs[0]
        chain.append(step)
    convs = [use.node for use in end.uses()]
    plain = [conv for conv in convs if conv.op_type == "Conv" and conv.attributes.get_int("group", 1) == 1]
    done = len(chain) == 1 and chain[0].op_type == "Sub"
    if not chain or done or not convs or len(plain) != len(convs) or end.is_graph_output():
        return Saving("fold_input_affine", 0, "nothing to fold")
    centre = Builder(graph).constant("mean", (-shift / factor).astype(np.float32).reshape(1, 3, 1, 1))
    centred = ir.val("lr_centred", ir.DataType.FLOAT)
    graph.insert_before(chain[0], ir.node("Sub", [start, centre], outputs=[centred], name="lr_centred"))
    for conv in convs:
        set_array(conv, 1, array(conv, 1) * factor.reshape(1, 3, 1, 1))
        conv.replace_input_with(0, centred)
    _remove(graph, chain)
    saved = before - graph.num_nodes()
    return Saving("fold_input_affine", saved, f"{len(chain)} steps as one Sub, the scale in {len(convs)} kernels")


def fold_output_affine(model: ir.Model) -> Saving:
    """The arithmetic after the last convolutions, folded into their kernels and biases."""
    graph = model.graph
    before = graph.num_nodes()
    end, tail = graph.outputs[0], graph.outputs[0].producer()
    while tail is not None and tail.op_type in ("Cast", "Transpose", "Clip"):
        source = tail.inputs[0]
        assert source is not None
        end, tail = source, source.producer()
    chain = []
    while tail is not None and _channel_constant(tail) is not None and _is_used_once(tail.outputs[0]):
        chain.append(tail)
        tail = _variable_input(tail).producer()
    if not chain or tail is None:
        return Saving("fold_output_affine", 0, "nothing to fold")
    factor, shift = np.ones(3), np.zeros(3)
    for step in reversed(chain):
        constant = _channel_constant(step)
        assert constant is not None
        factor, shift = _affine_step(step.op_type, factor, shift, constant)
    convs = _summed_convs(tail)
    if not convs:
        return Saving("fold_output_affine", 0, "not a sum of convolutions: left alone")
    for i, (conv, repeat) in enumerate(convs):
        wide, offset = np.repeat(factor, repeat), np.repeat(shift, repeat) * (i == 0)
        set_array(conv, 1, array(conv, 1) * wide.reshape(-1, 1, 1, 1))
        set_array(conv, 2, array(conv, 2) * wide + offset)
    _rewire(graph, end, tail.outputs[0])
    _remove(graph, chain)
    saved = before - graph.num_nodes()
    return Saving("fold_output_affine", saved, f"{len(chain)} steps at full size, now in {len(convs)} kernels")


def pad_channels(model: ir.Model, multiple: int = 8) -> Saving:
    """Channels between two convolutions zero-padded to a multiple of 8, which vector units work in.

    WDSR-B's low-rank 25 -> 32 made the frame 5 to 13 % faster on CPU (benchmarks/results/layout.md), the result equal.
    """
    added = []
    for conv in list(model.graph.all_nodes()):
        user = _only_user(conv.outputs[0])
        if conv.op_type != "Conv" or user is None or user.op_type != "Conv":
            continue
        width = array(conv, 1).shape[0]
        extra = -width % multiple
        groups = conv.attributes.get_int("group", 1), user.attributes.get_int("group", 1)
        if not extra or groups != (1, 1):
            continue
        set_array(conv, 1, np.pad(array(conv, 1), ((0, extra), (0, 0), (0, 0), (0, 0))))
        set_array(conv, 2, np.pad(array(conv, 2), (0, extra)))
        set_array(user, 1, np.pad(array(user, 1), ((0, 0), (0, extra), (0, 0), (0, 0))))
        added.append(f"{width}->{width + extra}")
    return Saving("pad_channels", 0, f"{len(added)} widths padded ({', '.join(sorted(set(added))) or 'none was odd'})")


def shuffle_in_nhwc(model: ir.Model) -> Saving:
    """The last pixel shuffle done channels-last: two block copies in place of a scattered one.

    ``DepthToSpace, Clip, Transpose`` moves every value alone, twice. With the convolutions' output channels ordered
    (row, column, colour), ``Transpose`` to NHWC first leaves rows of ``3 * scale`` values to be moved as blocks.
    """
    graph = model.graph
    before = graph.num_nodes()
    cast = graph.outputs[0].producer()
    assert cast is not None
    pattern, node = [], cast.inputs[0].producer() if cast.inputs[0] is not None else None
    for op in ("Transpose", "Clip", "DepthToSpace"):
        if cast.op_type != "Cast" or node is None or node.op_type != op or not _is_used_once(node.outputs[0]):
            return Saving("shuffle_in_nhwc", 0, "no pixel shuffle at the end")
        pattern.append(node)
        source = node.inputs[0]
        assert source is not None
        node = source.producer()
    _, clip, shuffle = pattern
    convs = _summed_convs(shuffle)
    entry = next((user for user in graph.inputs[0].consumers() if user.op_type == "Cast"), None)
    if not convs or entry is None:
        return Saving("shuffle_in_nhwc", 0, "not a sum of convolutions: left alone")
    s = shuffle.attributes["blocksize"].as_int()
    order = np.arange(3 * s * s).reshape(3, s, s).transpose(1, 2, 0).reshape(-1)
    for conv, _ in convs:
        for index in (1, 2):
            set_array(conv, index, array(conv, index)[order])
    summed = shuffle.inputs[0]
    assert summed is not None
    add = Builder(graph)
    x = add.node("Transpose", "sr_nhwc", [summed], perm=[0, 2, 3, 1])
    x = add.node("Reshape", "sr_blocks", [x, add.constant("block_shape", np.array([0, 0, 0, s, 3 * s]))])
    x = add.node("Transpose", "sr_rows", [x], perm=[0, 1, 3, 2, 4])
    x = add.node("Clip", "sr_clipped_rows", [x, *clip.inputs[1:]])  # type: ignore[list-item]
    size = add.node("Shape", "lr_size", [entry.outputs[0]])
    size.dtype = ir.DataType.INT64
    size = add.node("Mul", "sr_size", [size, add.constant("factors", np.array([1, s, s, 1]))])
    size.dtype = ir.DataType.INT64
    x = add.node("Reshape", "sr_levels", [x, size])
    cast.replace_input_with(0, x)
    graph.remove(cast)
    graph.append(cast)
    _remove(graph, pattern)
    saved = before - graph.num_nodes()
    return Saving("shuffle_in_nhwc", saved, f"x{s} shuffle moves blocks of {3 * s} values, not single ones")


UINT8_PASSES: tuple[Pass, ...] = (uint8_io, fold_input_affine, fold_output_affine, pad_channels, shuffle_in_nhwc)
FLOAT_PASSES: tuple[Pass, ...] = (fold_input_affine, fold_output_affine, pad_channels)


def _only_user(value: ir.Value) -> ir.Node | None:
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _is_used_once(value: ir.Value) -> bool:
    """By one node, or as the graph's output."""
    return len(value.uses()) + value.is_graph_output() == 1


def _channel_constant(node: ir.Node) -> Array | None:
    """The constant that ``node`` adds, subtracts, multiplies or divides by, one for each of three channels."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    for index in (1, 0) if node.op_type in ("Add", "Mul") else (1,):
        value = node.inputs[index]
        if value is not None and value.const_value is not None:
            array = value.const_value.numpy()
            if array.size == 1 or array.shape in ((3, 1, 1), (1, 3, 1, 1)):
                return np.broadcast_to(array.astype(np.float64).reshape(-1), 3)
    return None


def _variable_input(node: ir.Node) -> ir.Value:
    return next(value for value in node.inputs if value is not None and value.const_value is None)


def _affine_step(op: str, factor: Array, shift: Array, constant: Array) -> tuple[Array, Array]:
    """``x * factor + shift`` followed by one arithmetic step."""
    if op in ("Add", "Sub"):
        return factor, shift + (constant if op == "Add" else -constant)
    by = constant if op == "Mul" else 1 / constant
    return factor * by, shift * by


def _summed_convs(node: ir.Node) -> list[tuple[ir.Node, int]]:
    """The convolutions whose sum ``node`` gives, each with its output channels for each colour; none if others join."""
    repeat = 1
    if not _is_used_once(node.outputs[0]):
        return []
    while node.op_type == "DepthToSpace" and node.attributes["mode"].as_string() == "CRD":
        repeat *= node.attributes["blocksize"].as_int() ** 2
        node = _source(node)
        if not _is_used_once(node.outputs[0]):
            return []
    leaves = [node] if node.op_type == "Conv" else [_producer(value) for value in node.inputs]
    if node.op_type not in ("Conv", "Add") or any(leaf is None or leaf.op_type != "Conv" for leaf in leaves):
        return []
    used_once = all(leaf is not None and _is_used_once(leaf.outputs[0]) for leaf in leaves)
    return [(leaf, repeat) for leaf in leaves if leaf is not None] if used_once else []


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _source(node: ir.Node) -> ir.Node:
    source = _producer(node.inputs[0])
    assert source is not None
    return source


def _rewire(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` stand for ``old`` everywhere, the graph's outputs included."""
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
    for i, output in enumerate(graph.outputs):
        if output is old:
            new.name, new.shape, new.type, old.name = old.name, old.shape, old.type, f"{old.name}_unused"
            graph.outputs[i] = new


def _remove(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    """Remove nodes that nothing uses any more, and the constants that only they used."""
    constants = {value.name for node in nodes for value in _constants(node)}
    graph.remove(nodes, safe=True)
    for name in constants:
        assert name is not None
        if not graph.initializers[name].uses():
            del graph.initializers[name]


def _constants(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None and value.const_value is not None)
