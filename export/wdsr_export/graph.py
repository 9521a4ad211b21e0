"""A folded network as an ONNX graph, node for node; the passes make the deploy graph of it."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import ArrayLike
from torch import fx, nn

from wdsr_calibration.constants import add_constant
from wdsr_edge import ExportError
from wdsr_edge.models import EDSR, WDSR

OPSET = 19
IR_VERSION = 9
"""The newest that the last ONNX Runtime for Python 3.10 reads."""

Attribute = int | str | list[int] | ir.DataType


class Builder:
    """Appends nodes to a graph and names what they make."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def constant(self, name: str, value: ArrayLike) -> ir.Value:
        """An initializer; ``value`` keeps its dtype and shape. A name that is taken gets a number."""
        return add_constant(self.graph, name, value)

    def node(self, op: str, name: str, inputs: Sequence[ir.Value], **attributes: Attribute) -> ir.Value:
        """The output of a new float32 node; both are called ``name``."""
        output = ir.val(name, ir.DataType.FLOAT)
        self.graph.append(ir.node(op, inputs, attributes, outputs=[output], name=name))
        return output


def float_graph(model: EDSR | WDSR) -> ir.Model:
    """``model``, folded, as ONNX: ``lr`` float32 [N, 3, H, W] to ``sr`` [N, 3, H*s, W*s], RGB in [0, 1].

    Traced, so that the forward method stays the one description of the network. No pass has run yet.
    """
    s = model.config.scale
    lr = ir.val("lr", ir.DataType.FLOAT, ["N", 3, "H", "W"])
    graph = ir.Graph([lr], [], nodes=[], name=model.config.name, opset_imports={"": OPSET})
    builder = Builder(graph)
    traced = fx.GraphModule(model, fx.Tracer().trace(model))
    modules = dict(traced.named_modules())
    values: dict[fx.Node, ir.Value] = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = lr
        elif node.op == "get_attr":
            owner, _, attribute = str(node.target).rpartition(".")
            tensor = getattr(modules[owner], attribute)
            values[node] = builder.constant(str(node.target), tensor.detach().numpy())
        elif node.op == "call_module":
            values[node] = _module(builder, str(node.target), modules[str(node.target)], values[node.args[0]])
        elif node.op == "call_function":
            values[node] = _arithmetic(builder, node, values)
        elif node.op == "output":
            sr = values[node.args[0]]
            sr.name, sr.shape = "sr", ir.Shape(["N", 3, f"{s}*H", f"{s}*W"])
            graph.outputs.append(sr)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="wdsr-edge")


def _module(builder: Builder, name: str, module: nn.Module, x: ir.Value) -> ir.Value:
    if isinstance(module, nn.Conv2d):
        assert module.bias is not None
        weight = builder.constant(f"{name}.weight", module.weight.detach().numpy())
        bias = builder.constant(f"{name}.bias", module.bias.detach().numpy())
        top, left = (side // 2 for side in module.kernel_size)
        pads = [top, left, top, left]
        kernel = list(module.kernel_size)
        return builder.node("Conv", name, [x, weight, bias], kernel_shape=kernel, pads=pads, group=module.groups)
    if isinstance(module, nn.ReLU):
        return builder.node("Relu", name, [x])
    if isinstance(module, nn.PixelShuffle):
        return builder.node("DepthToSpace", name, [x], blocksize=module.upscale_factor, mode="CRD")
    raise ExportError(f"no ONNX form of {name}: {module}; fold the model first")


def _arithmetic(builder: Builder, node: fx.Node, values: dict[fx.Node, ir.Value]) -> ir.Value:
    op = _ARITHMETIC.get(node.target)
    if op is None:
        raise ExportError(f"no ONNX form of {node.target} in the model's forward method")
    inputs = []
    for i, arg in enumerate(node.args):
        if isinstance(arg, fx.Node):
            inputs.append(values[arg])
        else:
            assert isinstance(arg, (int, float))
            inputs.append(builder.constant(f"{node.name}.{i}", np.float32(arg)))
    return builder.node(op, node.name, inputs)


_ARITHMETIC: Mapping[object, str] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.truediv: "Div",
}


def weights_hash(model: EDSR | WDSR) -> str:
    """sha256 of a folded network's kernels and biases (float32, little-endian, in module order), as hexadecimal."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().to(torch.float32).numpy().astype("<f4").tobytes())
    return digest.hexdigest()
