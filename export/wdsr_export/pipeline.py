"""``deploy``: from a trained network to a bundle that is verified and timed."""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from PIL import Image

from wdsr_calibration import Budget, CalibrationSet, Quantised
from wdsr_edge._errors import InputError
from wdsr_edge._version import __version__
from wdsr_edge.backends import check_backend
from wdsr_edge.bundle import (
    GOLDEN_LR,
    GOLDEN_SR,
    WEIGHTS,
    Bundle,
    Graph,
    check_details,
    check_target,
    onnx_name,
    write_bundle,
)
from wdsr_edge.choices import choices
from wdsr_edge.images.files import Rgb
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.measuring.comparison import Timed, compare
from wdsr_edge.models import EDSR, WDSR, fold, reference, save_checkpoint
from wdsr_edge.proof.gates import GATES, LEARNED, Gate, golden_gate

from .fp16_sums import NAME as FP16_SUMS
from .fp16_sums import fp16_sums_entry
from .graph import weights_hash
from .int8 import (
    GRAPH_OF_FORM,
    PICTURE,
    REPORT,
    Int8,
    calibration_of,
    entry_of,
    files_of,
    int8_file,
    make_int8,
    parity_of,
)
from .onnx_file import export_onnx
from .parity import Parity, parities
from .passes import Saving


@dataclass(frozen=True)
class Deployment:
    """Result of ``deploy``."""

    bundle: Bundle | None
    """The bundle it wrote; None if a graph failed its gate, or INT8 its budget."""
    parity: Sequence[Parity]
    """Each graph in each engine against the PyTorch reference, up to the graph that failed."""
    int8: Sequence[Int8]
    """Results of calibration, if there was one."""
    timed: Sequence[Timed]
    """Each way to run the bundle here."""
    savings: Sequence[Saving]
    """Savings of each graph pass."""


def deploy(
    model: EDSR | WDSR,
    output: str | os.PathLike[str],
    frames: Mapping[str, Rgb],
    *,
    samples: CalibrationSet | None = None,
    max_drop: float = 0.02,
    learned: Quantised | None = None,
    keep: Bundle | None = None,
    sizes: Sequence[tuple[int, int]] = ((270, 480), (360, 640), (540, 960)),
    seconds: float = 2.0,
    details: Mapping[str, Any] | None = None,
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> Deployment:
    """Fold and export ``model``, prove parity on ``frames`` (uint8 HWC RGB), calibrate, write the bundle, and time it.

    INT8 is calibrated on ``samples`` within ``max_drop`` dB, or is what ``model`` has ``learned``; without either,
    a bundle to ``keep`` gives its INT8 graphs if it holds the same weights. ``sizes`` (LR height, width) are
    timed for ``seconds`` each in every engine here. ``details`` (how it was trained, its figures) go into the manifest.
    Nothing is written if parity or the budget is not met: the result then says why. Raises WdsrError otherwise.
    """
    check_backend("auto")
    check_target(output)
    Budget(max_drop)
    check_details(details or {})
    on_stage("fold and export", 1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        savings = export_onnx(model, scratch / onnx_name("fp32"))
        export_onnx(model, scratch / onnx_name("fp32", "float32"), io="float32")
        savings.append(export_onnx(model, scratch / onnx_name("fp16"), precision="fp16", frames=frames)[-1])
        save_checkpoint(model, scratch / WEIGHTS)
        files = {path.name: path.read_bytes() for path in scratch.iterdir()}
    weights = weights_hash(fold(model))
    calibration: Mapping[str, Any] | None = None
    graphs: tuple[Graph, ...] = ("fp32", "fp16")
    gates: dict[Graph, Gate] = dict(GATES)
    recorded: Mapping[str, Any] = {}
    if learned is not None and samples is not None:
        raise InputError("INT8 is either learned or calibrated: leave out samples or learned")
    if learned is not None:
        for form, graph in GRAPH_OF_FORM.items():
            files[onnx_name(graph)] = int8_file(dataclasses.replace(learned, form=form), frames)
            gates[graph] = LEARNED
        placement = dataclasses.asdict(learned.placement)
        calibration = {"learned": True, "graphs": dict.fromkeys(GRAPH_OF_FORM.values(), placement)}
        graphs = (*graphs, *GRAPH_OF_FORM.values())
    elif samples is None and keep is not None and keep.manifest.get("weights_sha256") == weights:
        kept = tuple(graph for graph in keep.graphs if graph not in graphs)
        gates |= {graph: golden_gate(graph, keep.manifest) for graph in kept}
        names = [*map(onnx_name, kept), REPORT, PICTURE]
        files |= {name: keep.read(name) for name in names if keep.has(name)}
        recorded = {graph: keep.manifest["parity"][graph] for graph in kept}
        graphs, calibration = (*graphs, *kept), keep.manifest.get("calibration")
    on_stage("verify", len(graphs))
    parity: list[Parity] = []
    for graph in graphs:
        parity += parities(model, graph, files[onnx_name(graph)], frames, gates[graph])
        on_step()
        if not all(found.passed for found in parity):
            return Deployment(None, parity, [], [], savings)
    entries: dict[str, dict[str, Any]] = {graph: {} for graph in graphs}
    for found in parity:
        entries[found.graph][found.engine] = entry_of(found, frames)
    lr = golden_frame()
    entries["fp16"][FP16_SUMS] = fp16_sums_entry(model, lr)
    entries |= recorded
    made: list[Int8] = []
    if samples is not None:
        made = make_int8(model, samples, frames, max_drop=max_drop, on_stage=on_stage, on_step=on_step)
        if not all(one.met for one in made):
            return Deployment(None, parity, made, [], savings)
        files |= files_of(made)
        entries |= parity_of(made, frames)
        calibration = calibration_of(made, samples)
    on_stage("write", 1)
    files |= {GOLDEN_LR: _png(lr), GOLDEN_SR: _png(reference(model)(lr))}
    manifest = {
        **(details or {}),
        "weights_sha256": weights,
        "parity": entries,
        "calibration": calibration,
        "versions": {"wdsr-edge": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__},
    }
    bundle = write_bundle(output, model.config, files, manifest)
    on_stage("benchmark", len(sizes))
    timed = compare(bundle, choices(bundle), sizes, seconds=seconds, on_step=on_step)
    return Deployment(bundle, parity, made, timed, savings)


def _png(image: Rgb) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
