"""INT8 graphs for a bundle, with what they were measured to lose."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdsr_calibration import Calibration, CalibrationConfig, CalibrationSet, Form, calibrate
from wdsr_calibration.drop import mean_psnr_y
from wdsr_edge.bundle import Bundle, Graph, check_target, onnx_name, write_bundle
from wdsr_edge.evaluation import Upscale
from wdsr_edge.gates import Gate
from wdsr_edge.images import Rgb
from wdsr_edge.metrics import Difference, difference
from wdsr_edge.models import EDSR, WDSR, reference

from .frontier import draw_frontier
from .onnx_file import export_onnx
from .parity import check_parity, open_exact

ANY = Gate(-math.inf, 255, 1.0)
GRAPH_OF_FORM: Mapping[Form, Graph] = {"tensorrt": "int8", "cpu": "int8-cpu"}


@dataclass(frozen=True)
class Int8:
    """One INT8 graph, as ONNX Runtime computes it."""

    graph: Graph
    """Which of the bundle's."""
    calibration: Calibration
    """What it was made of, and what the search found."""
    difference: Difference
    """To the PyTorch reference, over all frames."""
    golden_db: float
    """To the PyTorch reference, on the golden frame: PSNR on RGB."""
    drop_db: float
    """PSNR on luma lost on the held-out images."""


def quantise(
    bundle: Bundle,
    model: EDSR | WDSR,
    samples: CalibrationSet,
    frames: Mapping[str, Rgb],
    output: str | os.PathLike[str],
    *,
    max_drop: float = 0.05,
    config: CalibrationConfig | None = None,
    forms: Sequence[Form] = ("tensorrt", "cpu"),
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> list[Int8]:
    """Calibrate ``model``, which ``bundle`` holds, and write the bundle with its INT8 graphs to ``output``.

    Each form is calibrated by itself within ``max_drop`` dB. Nothing is written if one of them cannot meet that: the
    result then says what came nearest. Raises WdsrError for what ``calibrate``, ``export_onnx`` or writing refuses.
    """
    check_target(output)
    files = {name: bundle.read(name) for name in bundle.manifest["files"]}
    made = []
    for form in forms:
        graph = GRAPH_OF_FORM[form]
        found = calibrate(
            model,
            samples,
            max_drop=max_drop,
            config=dataclasses.replace(config or CalibrationConfig(), form=form),
            on_stage=lambda stage, total, graph=graph: on_stage(f"{graph}: {stage}", total),  # type: ignore[misc]
            on_step=on_step,
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / onnx_name(graph)
            export_onnx(found, path, precision="int8", frames=frames)
            files[path.name] = path.read_bytes()
        with open_exact(bundle.config, graph, files[onnx_name(graph)]) as sr:
            made.append(_measured(graph, found, sr, bundle, model, samples, frames))
    if all(one.calibration.met for one in made):
        files["calibration.json"] = _report(made).encode()
        files["calibration.png"] = draw_frontier({one.graph: one.calibration for one in made}, max_drop)
        write_bundle(output, bundle.config, files, _manifest(bundle, made, samples, frames, max_drop))
    return made


def _measured(
    graph: Graph,
    calibration: Calibration,
    upscale: Upscale,
    bundle: Bundle,
    model: EDSR | WDSR,
    samples: CalibrationSet,
    frames: Mapping[str, Rgb],
) -> Int8:
    lr, sr = bundle.golden()
    return Int8(
        graph,
        calibration,
        check_parity(model, upscale, frames, graph, ANY).total,
        difference(upscale(lr), sr).psnr_db,
        mean_psnr_y(reference(model), samples.held_out) - mean_psnr_y(upscale, samples.held_out),
    )


def _manifest(
    bundle: Bundle, made: Sequence[Int8], samples: CalibrationSet, frames: Mapping[str, Rgb], max_drop: float
) -> dict[str, Any]:
    """The bundle's details with those of INT8."""
    parity = dict(bundle.details["parity"])
    for one in made:
        total = {name: None if math.isinf(value) else value for name, value in one.difference._asdict().items()}
        parity[one.graph] = {
            "against": "PyTorch reference",
            "engine": "onnxruntime",
            "images": sorted(frames),
            **total,
            "golden_db": one.golden_db,
        }
    calibration = {
        **samples.origin,
        "images": len(samples.images),
        "images_sha256": samples.sha256,
        "crops": len(samples.crops),
        "held_out": [pair.name for pair in samples.held_out],
        "max_drop_db": max_drop,
        "graphs": {
            one.graph: {
                "drop_db": one.drop_db,
                "simulated_drop_db": one.calibration.drop_db,
                "ranges": one.calibration.ranges,
                "int8_share": one.calibration.share,
                "int8_share_of_body": one.calibration.body_share,
                **dataclasses.asdict(one.calibration.placement),
            }
            for one in made
        },
    }
    return {**bundle.details, "parity": parity, "calibration": calibration}


def _report(made: Sequence[Int8]) -> str:
    """calibration.json: what each layer costs, and the frontier."""
    document = {
        one.graph: {
            "drop_db_by_ranges": one.calibration.drop_by_ranges,
            "sensitivity_db": one.calibration.sensitivity,
            "frontier": [
                {"int8_share": point.share, "drop_db": point.drop_db, **dataclasses.asdict(point.placement)}
                for point in one.calibration.frontier
            ],
        }
        for one in made
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
