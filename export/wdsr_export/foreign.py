"""ONNX files of unknown origin: how one is run, and which precision it is in by what it is made of."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

from wdsr_edge._errors import BundleError, InputError
from wdsr_edge.backends import thread_count
from wdsr_edge.backends.quiet import load_onnxruntime, quiet_options
from wdsr_edge.bundle import Bundle, Graph, onnx_name, read_manifest
from wdsr_edge.evaluation import Upscale
from wdsr_edge.images.files import Rgb
from wdsr_edge.models.reference import to_image, to_tensor
from wdsr_edge.proof.gates import Gate, golden_gate

_HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_QUANTISED = ("QLinear", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_RECORDED: tuple[Graph, ...] = ("int8", "int8-cpu")
"""Those whose gate is what a bundle records of them."""


def foreign_graph(path: Path, precision: Graph, threads: int | None) -> Upscale:
    """The graph in a file, uint8 NHWC or float NCHW in [0, 1], in ``precision``, as a function of a uint8 frame."""
    ort = load_onnxruntime("onnxruntime")
    options = quiet_options(ort)
    options.intra_op_num_threads = thread_count(threads)
    if precision == "int8":  # fusing quantises biases, which overflows in the FP16 of TensorRT's form
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (lr,), (sr,) = session.get_inputs(), session.get_outputs()
    except Exception as error:  # its exception types are private
        raise InputError(
            f"{path}: no ONNX graph with one input and one output ({str(error).splitlines()[0]})"
        ) from error

    def upscale(frame: Rgb) -> Rgb:
        batch = frame[None] if lr.type == "tensor(uint8)" else to_tensor(frame[None]).numpy()
        if lr.type == "tensor(float16)":
            batch = batch.astype(np.float16)
        try:
            (result,) = session.run([sr.name], {lr.name: batch})
        except Exception as error:
            raise InputError(
                f"{path}: failed on a {batch.dtype} {batch.shape} frame: {str(error).splitlines()[0]}"
            ) from error
        if getattr(result, "ndim", 0) != 4 or result.dtype not in (np.uint8, np.float32, np.float16):
            raise InputError(f"{path}: its output is not a uint8 or float image batch, so not a super-resolution graph")
        if result.dtype == np.uint8:
            image: Rgb = result[0]
        else:
            image = to_image(torch.from_numpy(result.astype(np.float32)))[0]
        return image

    return upscale


def precision_of_file(path: Path) -> Graph:
    """Precision of a graph, by its operators and the types of its tensors, whatever its metadata says.

    ``int8`` if it holds FP16 as well, as the form for TensorRT does; else ``int8-cpu``. ``fp32`` if it cannot be read:
    running it says more.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's and onnx's own
        return "fp32"
    half = quantised = False
    for graph in _graphs(model):
        tensors = [
            *graph.initializer,
            *(part.t for node in graph.node for part in node.attribute if part.HasField("t")),
        ]
        casts = [
            part.i for node in graph.node if node.op_type == "Cast" for part in node.attribute if part.name == "to"
        ]
        ends = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
        half |= any(kind in _HALF for kind in (*(tensor.data_type for tensor in tensors), *casts, *ends))
        quantised |= any(node.op_type.startswith(_QUANTISED) for node in graph.node)
    if quantised:
        return "int8" if half else "int8-cpu"
    return "fp16" if half else "fp32"


def recorded(path: Path, bundle: Bundle | None) -> tuple[Graph, Gate] | None:
    """Which graph of a bundle a file is, and what that must reach on the golden frame; None if it is of none.

    Looked for are ``bundle`` and the one that the file lies in.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifests = [] if bundle is None else [bundle.manifest]
    with contextlib.suppress(BundleError):
        manifests.append(read_manifest(path.absolute().parent))
    for manifest in manifests:
        for graph in _RECORDED:
            if manifest["files"].get(onnx_name(graph)) == digest:
                with contextlib.suppress(BundleError):  # nothing is recorded of it
                    return graph, golden_gate(graph, manifest)
    return None


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph and all that its nodes hold."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [part.g for node in graph.node for part in node.attribute if part.HasField("g")]
