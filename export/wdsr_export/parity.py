"""Parity: each exported graph against the PyTorch reference, and what went wrong where it fails."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from wdsr_edge._errors import InputError
from wdsr_edge.backends import ON_CPU, Backend, Session, installed, open_session, thread_count
from wdsr_edge.backends.onnxruntime import OnnxRuntimeSession
from wdsr_edge.backends.quiet import load_onnxruntime, quiet_options
from wdsr_edge.bundle import Bundle, Graph
from wdsr_edge.evaluation import Upscale
from wdsr_edge.gates import ANY, GATES, Gate, golden_gate
from wdsr_edge.images import Rgb
from wdsr_edge.loading import find_bundle
from wdsr_edge.metrics import Difference, difference
from wdsr_edge.models import EDSR, WDSR, reference
from wdsr_edge.models.reference import to_image, to_tensor
from wdsr_edge.samples import golden_frame
from wdsr_edge.super_resolver import SuperResolver

from .diagnosis import diagnose


@dataclass(frozen=True)
class Parity:
    """One graph in one engine against the reference."""

    graph: Graph
    """Which graph."""
    engine: str
    """What ran it; empty for a function of unknown origin."""
    images: Mapping[str, Difference]
    """Each image by name."""
    total: Difference
    """All images taken as one."""
    passed: bool
    """Whether the graph's gate is met."""
    golden_db: float | None = None
    """PSNR on the golden frame, dB; None if it was not asked for."""
    diagnosis: str = ""
    """If not: the fault that explains it, or that none of those tried does."""
    tried: Mapping[str, float] | None = None
    """If not: each fault tried, and the PSNR in dB between the graph and the reference with that fault."""


def check_parity(
    model: EDSR | WDSR,
    upscale: Upscale,
    frames: Mapping[str, Rgb],
    graph: Graph,
    gate: Gate | None = None,
    *,
    engine: str = "",
) -> Parity:
    """Run ``upscale`` and the PyTorch reference on uint8 HWC RGB ``frames``, compare, and diagnose a failure.

    ``gate`` is by default that of ``graph``, which INT8 has none of: its drop to ground truth is what counts.
    """
    if not frames:
        raise InputError("no frames to compare on: give at least one photo")
    gate = gate or GATES.get(graph)
    if gate is None:
        raise InputError(f"{graph} has no parity gate of its own: verify one of {', '.join(GATES)}")
    original = reference(model)
    expected = {name: original(frame) for name, frame in frames.items()}
    found = {name: upscale(frame) for name, frame in frames.items()}
    for name, image in found.items():
        if image.shape != expected[name].shape:
            raise InputError(
                f"the graph makes {image.shape} of {name}, {model.config.name} {expected[name].shape}: another model?"
            )
    images = {name: difference(found[name], expected[name]) for name in frames}
    total = _total(images, expected)
    if gate.admits(total):
        return Parity(graph, engine, images, total, True)
    worst = min(frames, key=lambda name: images[name].psnr_db)
    diagnosis, tried = diagnose(model, frames[worst], found[worst])
    return Parity(graph, engine, images, total, False, diagnosis=diagnosis, tried=tried)


def verify(
    model: EDSR | WDSR,
    source: str | os.PathLike[str],
    frames: Mapping[str, Rgb],
    *,
    threads: int | None = None,
) -> list[Parity]:
    """Parity of every uint8 graph of a bundle (a directory or a zoo name) in every engine here, or of one ONNX file.

    An ONNX file may be any graph with one input and one output, uint8 NHWC or float32 NCHW in [0, 1]: that is how a
    file made elsewhere is compared. ``threads`` as in ``wdsr_edge.load``. Raises InputError, BundleError or
    BackendError.
    """
    if Path(source).is_file():
        return [check_parity(model, _foreign_graph(Path(source), threads), frames, "fp32")]
    bundle = Bundle.load(find_bundle(source))
    if bundle.config.scale != model.config.scale:
        raise InputError(f"{bundle.path} enlarges x{bundle.config.scale}, {model.config.name} not: another model?")
    found = [
        parity
        for graph in bundle.graphs
        for parity in parities(model, graph, bundle.onnx(graph), frames, golden_gate(graph, bundle.manifest), threads)
    ]
    if not found:
        raise InputError(f"{bundle.path} holds no graph to verify")
    return found


def parities(
    model: EDSR | WDSR,
    graph: Graph,
    onnx: bytes,
    frames: Mapping[str, Rgb],
    golden: Gate,
    threads: int | None = None,
) -> Iterator[Parity]:
    """``check_parity`` of one of a bundle's graphs in each engine here that can run it.

    ``golden`` is the gate of INT8, on the golden frame: what it loses on ``frames`` differs from picture to picture.
    """
    lr = golden_frame()
    expected = reference(model)(lr)
    for engine, session in sessions(graph, onnx, threads):
        with SuperResolver(session, model.config, open_float_session=no_float_session, keep_grey=False) as sr:
            found = check_parity(model, sr, frames, graph, None if graph in GATES else ANY, engine=engine)
            apart = difference(sr(lr), expected)
            found = replace(found, golden_db=apart.psnr_db)
            if graph not in GATES and not golden.admits(apart):
                words = f"{apart.psnr_db:.1f} dB on the golden frame, less than {golden.least_db:.1f}"
                found = replace(found, passed=False, diagnosis=words)
            yield found


def sessions(graph: Graph, onnx: bytes, threads: int | None = None) -> Iterator[tuple[Backend, Session]]:
    """Each engine on the CPU with ``graph``; TensorRT's INT8 in ONNX Runtime alone, node by node as TensorRT has it.

    Engines on a GPU, which would be compiled for each photo's size, are proven by the golden frame when they are timed.
    """
    if graph == "int8":
        yield "onnxruntime", OnnxRuntimeSession(onnx, threads=thread_count(threads), fuse_int8=False)
    else:
        yield from ((engine, open_session(engine, onnx, threads=threads)) for engine in installed() if engine in ON_CPU)


def no_float_session() -> Session:
    """In place of the float graph, where frames are uint8."""
    raise InputError("this graph takes uint8 frames")


def _foreign_graph(path: Path, threads: int | None) -> Upscale:
    """An ONNX file of unknown origin as a function of a uint8 frame."""
    ort = load_onnxruntime("onnxruntime")
    options = quiet_options(ort)
    options.intra_op_num_threads = thread_count(threads)
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (lr,), (sr,) = session.get_inputs(), session.get_outputs()
    except Exception as error:  # its exception types are private
        raise InputError(
            f"{path}: no ONNX graph with one input and one output ({str(error).splitlines()[0]})"
        ) from error

    def upscale(frame: Rgb) -> Rgb:
        uint8 = lr.type == "tensor(uint8)"
        batch = frame[None] if uint8 else to_tensor(frame[None]).numpy()
        try:
            (result,) = session.run([sr.name], {lr.name: batch})
        except Exception as error:
            raise InputError(
                f"{path}: failed on a {batch.dtype} {batch.shape} frame: {str(error).splitlines()[0]}"
            ) from error
        if getattr(result, "ndim", 0) != 4 or result.dtype not in (np.uint8, np.float32):
            raise InputError(f"{path}: its output is no uint8 or float32 image batch, so not a super-resolution graph")
        image: Rgb = result[0] if result.dtype == np.uint8 else to_image(torch.from_numpy(result))[0]
        return image

    return upscale


def _total(images: Mapping[str, Difference], expected: Mapping[str, Rgb]) -> Difference:
    sizes = np.array([expected[name].size for name in images], np.float64)
    errors = np.array([10 ** (-found.psnr_db / 10) for found in images.values()])
    shares = np.array([found.share_off for found in images.values()])
    error = float((errors * sizes).sum() / sizes.sum())
    decibels = -10 * math.log10(error) if error else math.inf
    worst = max(found.max_levels for found in images.values())
    return Difference(decibels, worst, float((shares * sizes).sum() / sizes.sum()))
