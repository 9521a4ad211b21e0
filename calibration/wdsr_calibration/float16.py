"""A deploy graph in FP16, but for what must stay FP32."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from wdsr_edge._errors import ExportError

from .constants import add_constant, array, remove_unused, set_array

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
HALF_UP = 1 / 32
"""Levels that FP16 rounds up in the mean before the last cast cuts off: its steps are 1/8 from 128 on, 1/16 from 64."""


def to_float16(model: ir.Model, keep: Collection[str] = ()) -> None:
    """Let ``model`` compute in FP16: tensors, kernels, biases, INT8 scales; but nodes named in ``keep`` in FP32.

    Interface and metadata stay. A Cast stands wherever a value passes from one precision to the other. What FP16's
    coarse steps would round the same way everywhere is made good: the mean that is subtracted, the offset at the end.
    Raises ExportError for a name in ``keep`` that no node has.
    """
    graph = model.graph
    nodes = list(graph)
    unknown = set(keep) - {str(node.name) for node in nodes}
    if unknown:
        raise ExportError(f"no node {', '.join(sorted(unknown))} in the graph to keep in FP32")
    entry = graph.inputs[0]
    keep = {*keep, *(str(user.name) for user in entry.consumers() if entry.dtype == FLOAT)}
    if entry.dtype != FLOAT:
        _round_mean(nodes)
        _round_offset(nodes, keep)
    precision = _Precision(graph)
    for node in nodes:
        wanted = FLOAT if node.name in keep else HALF
        if node.op_type == "Cast":
            if node.attributes["to"].as_int() == FLOAT:
                node.attributes["to"] = ir.AttrInt64("to", int(wanted))
                node.outputs[0].dtype = wanted
        elif node.op_type != "Shape":
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in (FLOAT, HALF):
                    node.replace_input_with(index, precision.of(value, wanted, node))
            for output in node.outputs:
                if output.dtype in (FLOAT, HALF):
                    output.dtype = wanted
    (end,) = graph.outputs
    if end.dtype == HALF:
        name, shape = end.name, end.shape
        end.name, end.shape = f"{name}_half", None
        graph.outputs[0] = precision.of(end, FLOAT, None)
        graph.outputs[0].name, graph.outputs[0].shape = name, shape
    remove_unused(graph)


class _Precision:
    """Every value of a graph in the precision that somebody wants, made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[str, ir.DataType], ir.Value] = {}

    def of(self, value: ir.Value, wanted: ir.DataType, before: ir.Node | None) -> ir.Value:
        """``value`` itself or converted; a Cast goes in front of ``before``, or to the end."""
        if value.dtype == wanted:
            return value
        assert value.name is not None
        if (value.name, wanted) not in self.made:
            name = f"{value.name}_{'half' if wanted == HALF else 'float'}"
            if value.const_value is not None:
                made = add_constant(self.graph, name, value.const_value.numpy().astype(wanted.numpy()))
            else:
                made = ir.val(name, wanted)
                cast = ir.node("Cast", [value], {"to": wanted}, outputs=[made], name=name)
                if before is None:
                    self.graph.append(cast)
                else:
                    self.graph.insert_before(before, cast)
            self.made[value.name, wanted] = made
        return self.made[value.name, wanted]


def _round_mean(nodes: Sequence[ir.Node]) -> None:
    """The mean as a multiple of 1/8 level, which every level minus it is as well; what is lost goes into the biases."""
    for node in nodes:
        convs = list(node.outputs[0].consumers())
        if node.op_type != "Sub" or not convs or any(conv.op_type != "Conv" for conv in convs):
            continue
        mean = array(node, 1)
        rounded = np.round(mean * 8) / 8
        for conv in convs:
            moved = np.einsum("oihw,ni->o", array(conv, 1), (rounded - mean).reshape(1, -1))
            set_array(conv, 2, array(conv, 2) + moved)
        set_array(node, 1, rounded)


def _round_offset(nodes: Sequence[ir.Node], keep: Collection[str]) -> None:
    """The biases of the last convolutions so that their FP16 sum is right; less what the last steps round up."""
    node = nodes[-1]
    while node.op_type in ("Cast", "Reshape", "Transpose", "Clip", "DepthToSpace"):
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if source is None or node.name in keep:
            return
        node = source
    convs = [node] if node.op_type == "Conv" else [value.producer() for value in node.inputs if value is not None]
    if node.op_type not in ("Conv", "Add") or any(conv is None or conv.op_type != "Conv" for conv in convs):
        return
    last = [conv for conv in convs if conv is not None]
    total = np.sum([array(conv, 2) for conv in last], 0) - HALF_UP
    for conv in reversed(last):
        rounded = total if conv is last[0] else total.astype(np.float16).astype(np.float64)
        set_array(conv, 2, rounded)
        total = total - rounded
