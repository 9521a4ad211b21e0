"""FP16: a range scan of the FP32 graph on real frames, the cast, and what must stay FP32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from wdsr_calibration import to_float16
from wdsr_edge._errors import ExportError
from wdsr_edge.backends.quiet import load_onnxruntime, quiet_options
from wdsr_edge.images.files import Rgb

MOST = 65504 / 4
"""Magnitude from which a tensor stays FP32: a quarter of FP16's largest, for frames that reach further."""
LEAST = 2.0**-10
"""Largest magnitude under which a tensor stays FP32: below a tenth of it FP16 loses bits."""
CROP = 128
"""LR pixels a side that frames are cut to for the scan."""


def to_safe_float16(model: ir.Model, frames: Mapping[str, Rgb]) -> Mapping[str, str]:
    """Let ``model``, a uint8 or float deploy graph, compute in FP16 where FP16 reaches far enough on ``frames``.

    Returns each node that was kept in FP32, with the reason. Raises ExportError if the FP32 graph itself gives numbers
    that are not finite, or the FP16 one does nevertheless.
    """
    crops = {name: frame[:CROP, :CROP] for name, frame in frames.items()}
    kept = _unsafe_kernels(model)
    for frame, found in _largest(model, crops).items():
        for name, reach in found.items():
            if not np.isfinite(reach):
                raise ExportError(f"{name} is not finite on {frame}: the network itself is broken, train it again")
            if (fault := _fault(reach)) is not None:
                for node in _around(model.graph, name):
                    kept.setdefault(node, f"{name} reaches {reach:.3g} on {frame}, {fault}")
    to_float16(model, kept.keys())
    for frame, found in _largest(model, crops).items():
        for name, reach in found.items():
            if not np.isfinite(reach):
                raise ExportError(f"{name} overflows in FP16 on {frame}, and in FP32 it does not: please report this")
    return kept


def _unsafe_kernels(model: ir.Model) -> dict[str, str]:
    kept = {}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.dtype == ir.DataType.FLOAT:
                reach = float(np.abs(value.const_value.numpy()).max(initial=0))
                if (fault := _fault(reach)) is not None and node.op_type == "Conv":
                    kept[str(node.name)] = f"{value.name} reaches {reach:.3g}, {fault}"
    return kept


def _fault(reach: float) -> str | None:
    """Why FP16 is not for numbers up to ``reach``, if it is not."""
    if reach > MOST:
        return "and FP16 ends at 65504"
    return "and FP16's smallest is 6e-8" if 0 < reach < LEAST else None


def _around(graph: ir.Graph, name: str) -> list[str]:
    """The node that makes a value and those that read it."""
    return [
        str(node.name)
        for node in graph
        if any(value is not None and value.name == name for value in (*node.inputs, *node.outputs))
    ]


def _largest(model: ir.Model, frames: Mapping[str, Rgb]) -> dict[str, dict[str, float]]:
    """The largest magnitude of each float tensor on each frame, by ONNX Runtime."""
    ort = load_onnxruntime("onnxruntime")
    proto = ir.to_proto(model)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    shown = {
        str(value.name): value.dtype
        for node in model.graph
        for value in node.outputs
        if value.dtype is not None and int(value.dtype) in floats
    }
    own = {output.name for output in proto.graph.output}
    for name, dtype in shown.items():
        if name not in own:
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, int(dtype), None))
    session = ort.InferenceSession(proto.SerializeToString(), quiet_options(ort), providers=["CPUExecutionProvider"])
    float_input = session.get_inputs()[0].type == "tensor(float)"
    found = {}
    for frame, pixels in frames.items():
        batch: NDArray[np.generic] = pixels[None]
        if float_input:
            batch = np.ascontiguousarray(pixels[None].transpose(0, 3, 1, 2), np.float32) / 255
        values = session.run(list(shown), {"lr": batch})
        found[frame] = {
            name: float(np.abs(value.astype(np.float32)).max()) for name, value in zip(shown, values, strict=True)
        }
    return found
