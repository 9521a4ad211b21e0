"""``deploy``: from a trained network to a bundle that is verified and timed."""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from PIL import Image

from wdsr_edge._version import __version__
from wdsr_edge.backends import open_session, resolve
from wdsr_edge.bundle import GOLDEN_LR, GOLDEN_SR, WEIGHTS, Bundle, Precision, check_target, onnx_name, write_bundle
from wdsr_edge.images import Rgb
from wdsr_edge.models import EDSR, WDSR, fold, reference, save_checkpoint
from wdsr_edge.samples import frame_of_size, golden_frame
from wdsr_edge.super_resolver import SuperResolver
from wdsr_edge.timing import Latency, measure

from .graph import weights_hash
from .onnx_file import export_onnx
from .parity import Parity, check_parity
from .passes import Saving


@dataclass(frozen=True)
class Deployment:
    """What ``deploy`` found."""

    bundle: Bundle | None
    """The bundle it wrote; None if a precision failed its gate."""
    backend: str
    """The engine that ran the graphs."""
    parity: Mapping[Precision, Parity]
    """Each graph against the PyTorch reference, up to the first that failed."""
    latency: Mapping[tuple[int, int], Latency]
    """LR height and width to host-to-host latency."""
    savings: Sequence[Saving]
    """What each graph pass saved."""


def deploy(
    model: EDSR | WDSR,
    output: str | os.PathLike[str],
    frames: Mapping[str, Rgb],
    *,
    sizes: Sequence[tuple[int, int]] = ((270, 480), (360, 640), (540, 960)),
    seconds: float = 2.0,
    details: Mapping[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Deployment:
    """Fold and export ``model``, prove parity on ``frames`` (uint8 HWC RGB), time it, and write the bundle.

    ``sizes`` (LR height, width) are timed for ``seconds`` each. ``details`` (how it was trained, its figures) go into
    the manifest. Nothing is written if parity fails: the result then holds the diagnosis. Raises WdsrError otherwise.
    """
    backend = resolve("auto")
    check_target(output)
    with tempfile.TemporaryDirectory() as folder:
        on_stage("fold and export")
        scratch = Path(folder)
        savings = export_onnx(model, scratch / onnx_name("fp32"))
        export_onnx(model, scratch / onnx_name("fp32", "float32"), io="float32")
        half = export_onnx(model, scratch / onnx_name("fp16"), precision="fp16", frames=frames)[-1]
        save_checkpoint(model, scratch / WEIGHTS)
        files = {path.name: path.read_bytes() for path in scratch.iterdir()}

    def opened(precision: Precision) -> SuperResolver:
        floats = partial(open_session, backend, files[onnx_name("fp32", "float32")])
        session = open_session(backend, files[onnx_name(precision)])
        return SuperResolver(session, model.config, open_float_session=floats, backend=backend, precision=precision)

    on_stage("verify")
    parity: dict[Precision, Parity] = {}
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        with opened(precision) as sr:
            parity[precision] = check_parity(model, sr, frames, precision)
        if not parity[precision].passed:
            return Deployment(None, backend, parity, {}, [*savings, half])
    on_stage("benchmark")
    with opened("fp32") as sr:
        latency = {size: measure(partial(sr, frame_of_size(*size)), seconds=seconds) for size in sizes}
    on_stage("write")
    lr = golden_frame()
    files |= {GOLDEN_LR: _png(lr), GOLDEN_SR: _png(reference(model)(lr))}
    manifest = {
        **(details or {}),
        "weights_sha256": weights_hash(fold(model)),
        "parity": {precision: _entry(found, frames) for precision, found in parity.items()},
        "calibration": None,
        "versions": {"wdsr-edge": __version__, "torch": str(torch.__version__), "onnx": onnx.__version__},
    }
    bundle = write_bundle(output, model.config, files, manifest)
    return Deployment(bundle, backend, parity, latency, [*savings, half])


def _entry(parity: Parity, frames: Mapping[str, Rgb]) -> dict[str, Any]:
    """A precision's parity for the manifest; JSON has no infinity, so equal images have null dB."""
    total = parity.total._asdict()
    if math.isinf(parity.total.psnr_db):
        total["psnr_db"] = None
    return {"against": "PyTorch reference", "images": sorted(frames), **total}


def _png(image: Rgb) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
