"""A placed network as a deploy graph with QuantizeLinear and DequantizeLinear, in TensorRT's form or the CPUs'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from wdsr_edge._errors import ExportError
from wdsr_edge.config import ModelConfig
from wdsr_edge.models import EDSR, WDSR

from .constants import add_constant, constant, remove_unused
from .network import LEVELS, finer, kernel_scales
from .placement import Placement

Form = Literal["tensorrt", "cpu"]

LEVELS_OF_FORM: Mapping[Form, int] = {"tensorrt": LEVELS, "cpu": 63}
"""Largest code of a kernel: 7 bits on CPUs, as those without VNNI add two products in 16 bits, which 8 overflow."""

RELU_LEVELS_OF_FORM: Mapping[Form, int] = {"tensorrt": LEVELS, "cpu": 255}
"""Largest code of a tensor behind a ReLU: TensorRT's zero point is always 0, and its codes are signed."""

MIDDLE = 128
"""Zero point of a signed tensor on CPUs: ONNX Runtime is only fast where activations are unsigned."""


@dataclass(frozen=True)
class Quantised:
    """A network and all that an INT8 graph of it says."""

    config: ModelConfig
    """The network that was quantised."""
    model: EDSR | WDSR
    """Plain float kernels, equalised, and adjusted so that they round well."""
    form: Form
    """For which engines."""
    scales: Mapping[str, float]
    """Range of each activation tensor divided by LEVELS, by the tensor's name in the deploy graph."""
    placement: Placement
    """The part that is INT8."""


def insert_qdq(model: ir.Model, scales: Mapping[str, float], placement: Placement, form: Form) -> None:
    """Quantise ``model``, an FP32 deploy graph, as ``placement`` says, with the scale of each quantised tensor.

    Both forms hold INT8 kernels with a DequantizeLinear each (one scale for each output channel), and for each
    quantised tensor one QuantizeLinear with a DequantizeLinear for each user that is placed. Biases are float.

    ``tensorrt``: int8 throughout, zero points 0; ``to_float16`` then makes the FP16 mix; results are not quantised, as
    TensorRT gives those of INT8 convolutions in FP16 just as fast. ``cpu``: activations are uint8, those behind a ReLU
    from zero point 0 and the others around MIDDLE, and kernels have 7 bits. Raises ExportError if ``model`` lacks a
    node that ``placement`` names.
    """
    nodes = {str(node.name): node for node in model.graph}
    convs = ((name, "Conv") for name in (*placement.convs, *placement.results))
    for name, op in (*convs, *((add, "Add") for add in placement.identities)):
        if name not in nodes or nodes[name].op_type != op:
            raise ExportError(f"no {op} {name} in the graph: it is not the deploy graph of the calibrated network")
    writer = _Writer(model.graph, scales, form)
    for name in placement.convs:
        writer.quantise_kernel(nodes[name])
        writer.quantise_input(nodes[name], 0)
    for name in placement.identities:
        writer.quantise_input(nodes[name], _identity_of(nodes[name]))
    for name in placement.results if form == "cpu" else ():
        for use in list(nodes[name].outputs[0].uses()):
            if use.node.op_type == "Add":
                writer.quantise_input(use.node, use.idx)
    remove_unused(model.graph)


def _identity_of(add: ir.Node) -> int:
    """Which operand of a residual add is the identity: the one that the other was computed from."""
    first, second = (value.producer() if value is not None else None for value in add.inputs)
    return 0 if second is not None and first in _ancestors(second) else 1


def _ancestors(node: ir.Node) -> set[ir.Node]:
    found: set[ir.Node] = set()
    ahead = [node]
    while ahead:
        for value in ahead.pop().inputs:
            source = None if value is None else value.producer()
            if source is not None and source not in found:
                found.add(source)
                ahead.append(source)
    return found


class _Writer:
    """Puts quantisation nodes into a graph."""

    def __init__(self, graph: ir.Graph, scales: Mapping[str, float], form: Form) -> None:
        self.graph = graph
        self.scales = scales
        self.form = form
        self.quantised: dict[str, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def quantise_kernel(self, conv: ir.Node) -> None:
        kernel = torch.from_numpy(constant(conv, 1)[1].copy())
        scales = kernel_scales(kernel, LEVELS_OF_FORM[self.form])
        codes = (kernel / scales.view(-1, 1, 1, 1)).round().clamp(-LEVELS, LEVELS).to(torch.int8)
        name = f"{conv.name}.weight"
        made = ir.val(f"{name}_dq", ir.DataType.FLOAT)
        constants = [
            add_constant(self.graph, f"{name}_codes", codes.numpy()),
            add_constant(self.graph, f"{name}_scales", scales.numpy()),
            add_constant(self.graph, f"{name}_zeros", np.zeros(len(scales), np.int8)),
        ]
        node = ir.node("DequantizeLinear", constants, {"axis": 0}, outputs=[made], name=f"{name}_dq")
        self.graph.insert_before(conv, node)
        conv.replace_input_with(1, made)

    def quantise_input(self, user: ir.Node, index: int) -> None:
        source = user.inputs[index]
        assert source is not None
        if source.name not in self.quantised:
            self.quantised[str(source.name)] = self._quantise(source)
        made = ir.val(f"{user.name}.{source.name}_dq", ir.DataType.FLOAT)
        node = ir.node("DequantizeLinear", self.quantised[str(source.name)], outputs=[made], name=made.name)
        self.graph.insert_before(user, node)
        user.replace_input_with(index, made)

    def _quantise(self, source: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The codes of a tensor, with the scale and zero point they were made with."""
        maker = source.producer()
        assert maker is not None
        is_relu, unsigned = maker.op_type == "Relu", self.form == "cpu"
        scale = torch.tensor(self.scales[str(source.name)])
        scale = finer(scale, RELU_LEVELS_OF_FORM[self.form]) if is_relu else scale
        zero = np.array(MIDDLE if unsigned and not is_relu else 0, np.uint8 if unsigned else np.int8)
        parameters = (
            add_constant(self.graph, f"{source.name}_scale", scale.numpy()),
            add_constant(self.graph, f"{source.name}_zero", zero),
        )
        codes = ir.val(f"{source.name}_q", ir.DataType.UINT8 if unsigned else ir.DataType.INT8)
        node = ir.node("QuantizeLinear", [source, *parameters], outputs=[codes], name=codes.name)
        self.graph.insert_after(maker, node)
        return codes, *parameters
