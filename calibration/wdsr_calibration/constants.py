"""Constants of an ONNX graph: kernels, biases, scales. The graph passes of ``wdsr_export`` use them as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray


def add_constant(graph: ir.Graph, name: str, value: ArrayLike) -> ir.Value:
    """An initializer; ``value`` keeps its dtype. A name that is taken gets a number."""
    taken = graph.initializers
    name = next(n for n in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if n not in taken)
    tensor = ir.tensor(np.array(value, order="C"), name=name)
    made = ir.val(name, tensor.dtype, tensor.shape.numpy(), const_value=tensor)
    graph.register_initializer(made)
    return made


def constant(node: ir.Node, index: int) -> tuple[ir.Value, NDArray[Any]]:
    """A node's constant input, and what it holds."""
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value, value.const_value.numpy()


def array(node: ir.Node, index: int) -> NDArray[np.float64]:
    """A node's constant input in double precision, to work on."""
    return constant(node, index)[1].astype(np.float64)


def set_array(node: ir.Node, index: int, values: NDArray[np.float64]) -> None:
    """Replace a node's constant input, rounded to its dtype."""
    value, old = constant(node, index)
    tensor = ir.tensor(np.ascontiguousarray(values.astype(old.dtype)), name=value.name)
    value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())


def remove_unused(graph: ir.Graph) -> None:
    """Remove the constants that nothing reads."""
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
