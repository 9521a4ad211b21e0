"""Parity: each exported graph against the PyTorch reference, and what went wrong where it fails."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wdsr_edge._errors import InputError
from wdsr_edge.backends import ON_CPU, Backend, Session, installed, open_session, thread_count
from wdsr_edge.backends.onnxruntime import OnnxRuntimeSession
from wdsr_edge.bundle import Bundle, Graph
from wdsr_edge.evaluation import Upscale
from wdsr_edge.images.files import Rgb
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.loading import find_bundle
from wdsr_edge.metrics import Difference, difference
from wdsr_edge.models import EDSR, WDSR, reference
from wdsr_edge.proof.gates import ANY, GATES, LEARNED, Gate, golden_gate
from wdsr_edge.super_resolver import SuperResolver

from .diagnosis import diagnose
from .foreign import foreign_graph, precision_of_file, recorded


@dataclass(frozen=True)
class Parity:
    """One graph in one engine against the reference."""

    graph: Graph
    """Which graph."""
    engine: str
    """The backend that ran it; empty for a function of unknown origin."""
    images: Mapping[str, Difference]
    """Each image by name."""
    total: Difference
    """All images taken as one."""
    passed: bool
    """True if the graph's gate is met."""
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
    diagnosis, tried = diagnose(model, frames[worst], found[worst], quantised=graph.startswith("int8"))
    return Parity(graph, engine, images, total, False, diagnosis=diagnosis, tried=tried)


def verify(
    model: EDSR | WDSR,
    source: str | os.PathLike[str],
    frames: Mapping[str, Rgb],
    *,
    threads: int | None = None,
    among: Bundle | None = None,
) -> list[Parity]:
    """Parity of every uint8 graph of a bundle (a directory or a zoo name) in every engine here, or of one ONNX file.

    An ONNX file may be any graph with one input and one output, uint8 NHWC or float32 NCHW in [0, 1]: that is how a
    file made elsewhere is compared. Its gate is that of the precision it is in; of INT8, what the bundle records that
    it lies in, or ``among`` whose files it is, else 40 dB. ``threads`` as in ``wdsr_edge.load``. Raises InputError,
    BundleError or BackendError.
    """
    if Path(source).is_file():
        return [_verify_file(model, Path(source), frames, threads, among)]
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


def _verify_file(
    model: EDSR | WDSR, path: Path, frames: Mapping[str, Rgb], threads: int | None, among: Bundle | None
) -> Parity:
    """See verify."""
    graph = precision_of_file(path)
    known = recorded(path, among) if graph not in GATES else None
    if known is None:
        return check_parity(model, foreign_graph(path, graph, threads), frames, graph, GATES.get(graph, LEARNED))
    graph, gate = known
    upscale = foreign_graph(path, graph, threads)
    return _on_golden(check_parity(model, upscale, frames, graph, ANY), model, upscale, gate)


def _on_golden(found: Parity, model: EDSR | WDSR, upscale: Upscale, gate: Gate) -> Parity:
    """``found`` with its figure on the golden frame, and of INT8 whether that is what ``gate`` asks for."""
    lr = golden_frame()
    apart = difference(upscale(lr), reference(model)(lr))
    found = replace(found, golden_db=apart.psnr_db)
    if found.graph in GATES or gate.admits(apart):
        return found
    words = f"{apart.psnr_db:.1f} dB on the golden frame, less than {gate.least_db:.1f}"
    return replace(found, passed=False, diagnosis=words)


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
    for engine, session in sessions(graph, onnx, threads):
        with SuperResolver(session, model.config, open_float_session=no_float_session, keep_grey=False) as sr:
            found = check_parity(model, sr, frames, graph, None if graph in GATES else ANY, engine=engine)
            yield _on_golden(found, model, sr, golden)


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


def _total(images: Mapping[str, Difference], expected: Mapping[str, Rgb]) -> Difference:
    sizes = np.array([expected[name].size for name in images], np.float64)
    errors = np.array([10 ** (-found.psnr_db / 10) for found in images.values()])
    shares = np.array([found.share_off for found in images.values()])
    error = float((errors * sizes).sum() / sizes.sum())
    decibels = -10 * math.log10(error) if error else math.inf
    worst = max(found.max_levels for found in images.values())
    return Difference(decibels, worst, float((shares * sizes).sum() / sizes.sum()))
