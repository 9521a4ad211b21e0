"""``export_onnx``: a network to a checked ONNX file with the contract in its metadata, in any precision."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import get_args

import onnx
import onnx_ir as ir
import torch

from wdsr_calibration import Quantised, insert_qdq
from wdsr_edge._errors import InputError
from wdsr_edge._files import replacing
from wdsr_edge._version import __version__
from wdsr_edge.bundle import FORMAT_VERSION, METADATA_PREFIX, Io, Precision
from wdsr_edge.config import ModelConfig
from wdsr_edge.images.files import Rgb
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import EDSR, WDSR, fold

from .graph import float_graph, weights_hash
from .passes import FLOAT_PASSES, UINT8_PASSES, Saving
from .precision import to_safe_float16


def export_onnx(
    model: EDSR | WDSR | Quantised,
    path: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    io: Io = "uint8",
    size: tuple[int, int] | None = None,
    frames: Mapping[str, Rgb] | None = None,
) -> list[Saving]:
    """Fold ``model`` and write its deploy graph to ``path``; returns what each pass saved.

    ``io="uint8"``: ``lr`` uint8 [N, H, W, 3] RGB to ``sr`` uint8 [N, H*s, W*s, 3], rounded and clipped.
    ``io="float32"``: float32 NCHW RGB in [0, 1] in and out, not clipped, for embedding in another graph.
    N, H and W are dynamic unless ``size`` (LR height, width) fixes them with N = 1. Opset 19, IR 9.

    ``precision="fp16"``: FP16 wherever it reaches far enough on ``frames`` (uint8 HWC RGB; the shipped photos if not
    given). ``precision="int8"``: ``model`` is a Quantised, whose form says what the graph is for; around INT8, the
    TensorRT form is FP16 and the CPUs' is FP32.
    Raises ExportError for a model that cannot be folded or cast, and InputError for an unknown option.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if io not in ("uint8", "float32"):
        raise InputError(f"io must be uint8 or float32, got {io!r}")
    if size is not None and min(size) < 1:
        raise InputError(f"size must be at least 1x1, got {size}")
    quantised = model if isinstance(model, Quantised) else None
    if (quantised is not None) != (precision == "int8"):
        raise InputError("INT8 takes what wdsr_calibration.calibrate makes, and other precisions take a network")
    folded = fold(model.model if isinstance(model, Quantised) else model)
    graph = float_graph(folded)
    savings = [run(graph) for run in (UINT8_PASSES if io == "uint8" else FLOAT_PASSES)]
    details: dict[str, object] = {}
    if quantised is not None:
        insert_qdq(graph, quantised.scales, quantised.placement, quantised.form)
        details["int8"] = {"form": quantised.form, **dataclasses.asdict(quantised.placement)}
    if precision == "fp16" or (quantised is not None and quantised.form == "tensorrt"):
        kept = to_safe_float16(graph, sample_frames() if frames is None else frames)
        details["kept_fp32"] = dict(kept)
        savings.append(Saving("to_safe_float16", 0, _in_words(kept)))
    graph.graph.sort()
    if size is not None:
        _fix_size(graph, *size)
    graph.metadata_props.update(_contract(model.config, weights_hash(folded), precision, io, details))
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(path) as fresh:
        fresh.write_bytes(proto.SerializeToString(deterministic=True))
    return savings


def _in_words(kept: Mapping[str, str]) -> str:
    if not kept:
        return "half the bytes; no tensor comes near FP16's limits"
    return f"{len(kept)} nodes stay FP32: " + "; ".join(f"{name} ({reason})" for name, reason in kept.items())


def _contract(
    config: ModelConfig, weights: str, precision: Precision, io: Io, details: Mapping[str, object]
) -> Mapping[str, str]:
    versions = {"wdsr-edge": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__}
    values = {
        "format_version": FORMAT_VERSION,
        "config": config.to_dict(),
        "io": io,
        "precision": precision,
        "color_order": "rgb",
        "scale": config.scale,
        "halo": config.halo,
        "weights_sha256": weights,
        "versions": versions,
        **details,
    }
    return {f"{METADATA_PREFIX}{key}": json.dumps(value, sort_keys=True) for key, value in values.items()}


def _fix_size(model: ir.Model, height: int, width: int) -> None:
    """Replace the symbolic N, H and W at both ends by numbers."""
    numbers = {"N": 1, "H": height, "W": width}
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        dims = []
        for dim in value.shape:
            factor, _, symbol = str(dim).rpartition("*")
            dims.append(numbers[symbol] * int(factor or 1) if symbol in numbers else int(symbol))
        value.shape = ir.Shape(dims)
