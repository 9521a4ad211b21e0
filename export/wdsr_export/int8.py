"""INT8 graphs for a bundle, with what they were measured to lose."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wdsr_calibration import Budget, Calibration, CalibrationConfig, CalibrationSet, Form, Loss, Quantised, calibrate
from wdsr_calibration.drop import Drop
from wdsr_calibration.samples import PHOTOGRAPHS
from wdsr_edge._errors import BundleError
from wdsr_edge.bundle import Bundle, Graph, check_target, onnx_name, write_bundle
from wdsr_edge.images.files import Rgb
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.measuring.timing import measure_in_turns
from wdsr_edge.models import EDSR, WDSR, fold
from wdsr_edge.proof.gates import ANY
from wdsr_edge.super_resolver import SuperResolver

from .frontier import draw_frontier
from .onnx_file import export_onnx
from .parity import Parity, no_float_session, parities, sessions

GRAPH_OF_FORM: Mapping[Form, Graph] = {"cpu": "int8-cpu", "tensorrt": "int8"}
"""In the order in which they are calibrated: TensorRT's has less to round, and goes on where the CPUs' has ended."""
REPORT, PICTURE = "calibration.json", "calibration.png"

TIMED_SIZE = 270, 480
"""LR height and width of the frame that the frontier is timed with."""

ENGINE_SLACK_DB = 0.01
"""Extra loss that an engine may have over the simulation, dB."""


@dataclass(frozen=True)
class Int8:
    """One INT8 graph."""

    graph: Graph
    """Which of the bundle's."""
    onnx: bytes
    """Its file."""
    calibration: Calibration
    """The calibration that it was made from."""
    budget: Budget
    """Largest loss that it may cause."""
    parity: Sequence[Parity]
    """To the PyTorch reference over all frames, in each engine here."""
    losses: Mapping[str, Mapping[str, Loss]]
    """Loss of each content of the held-out images, in each engine here."""
    frontier_ms: Sequence[Mapping[str, float]]
    """Median ms of a frame of TIMED_SIZE in each engine here, for each point of the frontier; empty if not timed."""

    @property
    def met(self) -> bool:
        """True if the budget is met, in simulation and in each engine."""
        allowed = self.budget.with_slack(ENGINE_SLACK_DB)
        return self.calibration.met and all(allowed.excess(losses) <= 1 for losses in self.losses.values())

    @property
    def drop_db(self) -> float:
        """PSNR on luma lost on the held-out photographs, in the engine that loses most."""
        return max(losses[PHOTOGRAPHS].mean_db for losses in self.losses.values())

    @property
    def worst(self) -> tuple[str, float]:
        """The drawn kind that loses most in the mean, and how much, dB, in the engine that loses most."""
        drops = {
            kind: max(losses[kind].mean_db for losses in self.losses.values())
            for kind in self.calibration.losses
            if kind != PHOTOGRAPHS
        }
        kind = max(drops, key=drops.__getitem__, default=PHOTOGRAPHS)
        return kind, drops.get(kind, self.drop_db)

    @property
    def losses_in_full(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Loss of each content in each engine, for JSON."""
        return {engine: losses_entry(losses) for engine, losses in self.losses.items()}

    @property
    def beyond(self) -> dict[str, float]:
        """Contents that exceed their budget, and by which factor.

        In simulation with the most in INT8 that was tried, and in an engine, with its slack, as it was made.
        """
        whole = max(self.calibration.frontier, key=lambda point: point.share)
        allowed = self.budget.with_slack(ENGINE_SLACK_DB)
        shares = self.budget.shares(whole.losses)
        for engine, losses in self.losses.items():
            shares |= {f"{what} in {engine}": share for what, share in allowed.shares(losses).items()}
        return {what: share for what, share in shares.items() if share > 1}

    @property
    def float_convs(self) -> tuple[str, ...]:
        """The convolutions that stay out of INT8."""
        return tuple(name for name in self.calibration.convs if name not in self.calibration.placement.convs)

    @property
    def psnr_db(self) -> float:
        """To the PyTorch reference over all frames, in the engine that is furthest from it."""
        return min(found.total.psnr_db for found in self.parity)

    @property
    def max_levels(self) -> int:
        """Largest difference to the PyTorch reference, of 255."""
        return max(found.total.max_levels for found in self.parity)


def quantise(
    bundle: Bundle,
    model: EDSR | WDSR,
    samples: CalibrationSet,
    frames: Mapping[str, Rgb],
    output: str | os.PathLike[str],
    *,
    max_drop: float = 0.02,
    config: CalibrationConfig | None = None,
    time: bool = False,
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> list[Int8]:
    """Calibrate ``model``, which ``bundle`` holds, and write the bundle with its INT8 graphs to ``output``.

    ``max_drop`` is the budget of photographs, dB; with ``time``, each placement on the frontier is timed.
    Nothing is written if a form cannot meet the budget: the result then says what came nearest. Raises WdsrError for
    what ``calibrate``, ``export_onnx`` or writing refuses.
    """
    check_target(output)
    if not isinstance(bundle.details.get("parity"), dict):
        raise BundleError(f"{bundle.path}: its manifest records no parity: deploy its weights again")
    made = make_int8(
        model, samples, frames, max_drop=max_drop, config=config, time=time, on_stage=on_stage, on_step=on_step
    )
    if all(one.met for one in made):
        files = {name: bundle.read(name) for name in bundle.manifest["files"]}
        details = bundle.details
        parity = {**details["parity"], **parity_of(made, frames)}
        details |= {"parity": parity, "calibration": calibration_of(made, samples)}
        write_bundle(output, bundle.config, files | files_of(made), details)
    return made


def make_int8(
    model: EDSR | WDSR,
    samples: CalibrationSet,
    frames: Mapping[str, Rgb],
    *,
    max_drop: float = 0.02,
    config: CalibrationConfig | None = None,
    time: bool = False,
    on_stage: Callable[[str, int], None] = lambda stage, total: None,
    on_step: Callable[[], None] = lambda: None,
) -> list[Int8]:
    """Both forms of ``model`` in INT8, measured on ``frames`` and on the images that ``samples`` holds out."""
    made: list[Int8] = []
    drop = Drop(fold(model), samples.held_out)
    config = config or CalibrationConfig()
    budget = dataclasses.replace(config.budget, photographs_db=max_drop)
    for form, graph in GRAPH_OF_FORM.items():
        found = calibrate(
            model,
            samples,
            config=dataclasses.replace(config, form=form, budget=budget),
            start=made[0].calibration if made else None,
            on_stage=lambda stage, total, graph=graph: on_stage(f"{graph}: {stage}", total),  # type: ignore[misc]
            on_step=on_step,
        )
        onnx = int8_file(found, frames)
        parity = list(parities(model, graph, onnx, frames, ANY))
        losses = losses_of(model, graph, onnx, drop)
        frontier_ms: list[Mapping[str, float]] = []
        if time and graph != "int8":  # TensorRT, which that is for, has no Session yet
            on_stage(f"{graph}: time", 1)
            frontier_ms = _timed(found, graph, frames)
        made.append(Int8(graph, onnx, found, budget, parity, losses, frontier_ms))
    return made


def _timed(found: Calibration, graph: Graph, frames: Mapping[str, Rgb]) -> list[Mapping[str, float]]:
    frame = frame_of_size(*TIMED_SIZE)[None]
    calls: dict[tuple[int, str], Callable[[], object]] = {}
    with ExitStack() as stack:
        for i, point in enumerate(found.frontier):
            onnx = int8_file(dataclasses.replace(found, placement=point.placement), frames)
            for engine, session in sessions(graph, onnx):
                stack.callback(session.close)
                calls[i, str(engine)] = partial(session.run, frame)
        latency = measure_in_turns(calls, warmup=1, seconds=0)
    return [{engine: latency[i, engine].p50_ms for j, engine in calls if j == i} for i in range(len(found.frontier))]


def int8_file(quantised: Quantised, frames: Mapping[str, Rgb]) -> bytes:
    """The ONNX file of an INT8 graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        export_onnx(quantised, path, precision="int8", frames=frames)
        return path.read_bytes()


def losses_of(model: EDSR | WDSR, graph: Graph, onnx: bytes, drop: Drop) -> dict[str, dict[str, Loss]]:
    """Loss of an INT8 graph in each engine here, on each content of ``drop``."""
    losses = {}
    for engine, session in sessions(graph, onnx):
        with SuperResolver(session, model.config, open_float_session=no_float_session, keep_grey=False) as sr:
            losses[str(engine)] = drop.of(sr)
    return losses


def files_of(made: Sequence[Int8]) -> dict[str, bytes]:
    """The bundle's files of INT8: the graphs, what each layer costs, and the frontier as a picture."""
    document = {
        one.graph: {
            "budget_share_by_ranges": one.calibration.excess_by_ranges,
            "sensitivity_db": one.calibration.sensitivity,
            "frontier": [
                {
                    "int8_share": point.share,
                    "drop_db": point.drop_db,
                    "budget_share": point.excess,
                    **({"p50_ms": one.frontier_ms[i]} if one.frontier_ms else {}),
                    **dataclasses.asdict(point.placement),
                }
                for i, point in enumerate(one.calibration.frontier)
            ],
        }
        for one in made
    }
    searches = {one.graph: (one.calibration, one.frontier_ms) for one in made}
    return {
        **{onnx_name(one.graph): one.onnx for one in made},
        REPORT: (json.dumps(document, indent=2, allow_nan=False) + "\n").encode(),
        PICTURE: draw_frontier(searches, made[0].budget.photographs_db),
    }


def parity_of(made: Sequence[Int8], frames: Mapping[str, Rgb]) -> dict[str, Any]:
    """The manifest's parity of INT8, by graph and engine."""
    return {one.graph: {found.engine: entry_of(found, frames) for found in one.parity} for one in made}


def entry_of(parity: Parity, frames: Mapping[str, Rgb]) -> dict[str, Any]:
    """A graph's parity for the manifest; JSON has no infinity, so equal images have null dB."""
    total = {name: _finite(value) for name, value in parity.total._asdict().items()}
    golden = {} if parity.golden_db is None else {"golden_db": _finite(parity.golden_db)}
    return {"against": "PyTorch reference", "images": sorted(frames), **total, **golden}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def losses_entry(losses: Mapping[str, Loss]) -> dict[str, dict[str, float | None]]:
    """Loss of each content, for the manifest."""
    return {content: {name: _finite(value) for name, value in vars(loss).items()} for content, loss in losses.items()}


def calibration_of(made: Sequence[Int8], samples: CalibrationSet) -> dict[str, Any]:
    """The manifest's word on how INT8 was calibrated, and on what."""
    return {
        **samples.origin,
        "images": len(samples.images),
        "images_sha256": samples.sha256,
        "crops": {content: len(pairs) for content, pairs in samples.crops.items()},
        "held_out": [pair.name for pair in samples.held_out[PHOTOGRAPHS]],
        "max_drop_db": made[0].budget.photographs_db,
        "budget": dataclasses.asdict(made[0].budget.with_slack(ENGINE_SLACK_DB)),
        "graphs": {
            one.graph: {
                "drop_db": {engine: losses[PHOTOGRAPHS].mean_db for engine, losses in one.losses.items()},
                "losses": one.losses_in_full,
                "simulated_drop_db": one.calibration.losses[PHOTOGRAPHS].mean_db,
                "float": one.float_convs,
                "ranges": one.calibration.ranges,
                "int8_share": one.calibration.share,
                "int8_share_of_body": one.calibration.body_share,
                **dataclasses.asdict(one.calibration.placement),
            }
            for one in made
        },
    }
