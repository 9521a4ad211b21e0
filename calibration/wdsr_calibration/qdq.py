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
from .network import LEVELS, kernel_scales, representable
from .placement import Placement

Form = Literal["tensorrt", "cpu"]

LEVELS_OF_FORM: Mapping[Form, int] = {"tensorrt": LEVELS, "cpu": 63}
"""Largest code of a kernel: 7 bits on CPUs, as those without VNNI add two products in 16 bits, which 8 overflow."""


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
    """The scale of each activation tensor, by its name in the deploy graph."""
    placement: Placement
    """What is INT8."""


def insert_qdq(model: ir.Model, scales: Mapping[str, float], placement: Placement, form: Form) -> None:
    """Quantise ``model``, an FP32 deploy graph, as ``placement`` says, with the scale of each quantised tensor.

    Both forms hold INT8 kernels with a DequantizeLinear each (one scale for each output channel), and for each
    quantised tensor one QuantizeLinear with a DequantizeLinear for each user that is placed. Zero points are 0, biases
    float.

    ``tensorrt``: int8 throughout; ``to_float16`` then makes the FP16 mix. ``cpu``: uint8 behind a ReLU, with the same
    range, and kernels of 7 bits. Raises ExportError if ``model`` lacks a node that ``placement`` names.
    """
    nodes = {str(node.name): node for node in model.graph}
    for name, op in (*((conv, "Conv") for conv in placement.convs), *((add, "Add") for add in placement.identities)):
        if name not in nodes or nodes[name].op_type != op:
            raise ExportError(f"no {op} {name} in the graph: it is not the deploy graph of the calibrated network")
    writer = _Writer(model.graph, scales, form)
    for name in placement.convs:
        writer.quantise_kernel(nodes[name])
        writer.quantise_input(nodes[name])
    for name in placement.identities:
        writer.quantise_input(nodes[name])
    remove_unused(model.graph)


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

    def quantise_input(self, user: ir.Node) -> None:
        index, source = next(
            (i, value) for i, value in enumerate(user.inputs) if value is not None and value.name in self.scales
        )
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
        unsigned = self.form == "cpu" and maker.op_type == "Relu"
        scale = torch.tensor(self.scales[str(source.name)])
        scale = representable(scale * LEVELS / 255) if unsigned else scale
        zero = np.zeros((), np.uint8 if unsigned else np.int8)
        parameters = (
            add_constant(self.graph, f"{source.name}_scale", scale.numpy()),
            add_constant(self.graph, f"{source.name}_zero", zero),
        )
        codes = ir.val(f"{source.name}_q", ir.DataType.UINT8 if unsigned else ir.DataType.INT8)
        node = ir.node("QuantizeLinear", [source, *parameters], outputs=[codes], name=codes.name)
        self.graph.insert_after(maker, node)
        return codes, *parameters
