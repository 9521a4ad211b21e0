"""Gates: what each precision must reach against the PyTorch reference, or its golden frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .._errors import BundleError
from ..bundle import Bundle, Graph
from ..metrics import Difference, difference

if TYPE_CHECKING:
    from ..evaluation import Upscale


@dataclass(frozen=True)
class Gate:
    """The least that a precision must reach."""

    least_db: float
    """PSNR over all images, dB."""
    max_levels: int
    """Largest difference of any value, of 255."""
    share_off: float
    """Largest share of values that may differ: a biased rounding shows here first."""

    def admits(self, found: Difference) -> bool:
        """True if ``found`` is good enough."""
        return (
            found.psnr_db >= self.least_db and found.max_levels <= self.max_levels and found.share_off <= self.share_off
        )


GATES: Mapping[Graph, Gate] = {"fp32": Gate(60.0, 1, 0.001), "fp16": Gate(50.0, 255, 1.0)}

ANY = Gate(-math.inf, 255, 1.0)
"""Whatever is measured."""

LEARNED = Gate(40.0, 255, 1.0)
"""Gate of learned INT8, which has no budget: less is another picture."""

EQUAL_DB = 80.0
"""Cap of recorded figures, also for equal images, whose PSNR is infinite and null in a manifest.

There one value in 1,500 is off by one level; beyond, in FP32, the order of its sums decides.
"""

SLACK_DB = 1.0
"""Tolerance below the recorded figure, dB: engines round and accumulate differently."""


def golden_gate(graph: Graph, manifest: Mapping[str, Any]) -> Gate:
    """Gate of a bundle's graph on the golden frame: the recorded figure less SLACK_DB, and the graph's own gate.

    Of several engines that were recorded, the worst counts. Raises BundleError if nothing is recorded of an INT8 graph.
    """
    gate = GATES.get(graph, ANY)
    try:
        figures = [found["golden_db"] for found in manifest["parity"][graph].values()]
        recorded = min(EQUAL_DB if decibels is None else min(EQUAL_DB, float(decibels)) for decibels in figures)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if gate is not ANY:
            return gate
        raise BundleError(f"the manifest records no golden_db of {graph}: calibrate the model again") from error
    return replace(gate, least_db=max(gate.least_db, recorded - SLACK_DB))


def check_golden(bundle: Bundle, graph: Graph, upscale: Upscale) -> tuple[Difference, bool]:
    """Difference of ``upscale``, an engine running ``graph``, to the golden frame, and whether its gate is met."""
    lr, expected = bundle.golden()
    found = difference(upscale(lr), expected)
    return found, golden_gate(graph, bundle.manifest).admits(found)


def over_budget(graph: Graph, engine: str, manifest: Mapping[str, Any]) -> str:
    """Why ``auto`` leaves an INT8 graph alone in ``engine``: the content that loses more than the bundle's budget.

    Empty where all of it is within, and for graphs other than INT8, which have gates. What was measured in another
    engine counts where nothing was in this one.
    """
    if graph not in ("int8", "int8-cpu"):
        return ""
    try:
        calibration = manifest["calibration"]
        budget, engines = calibration["budget"], calibration["graphs"][graph]["losses"]
        for content, loss in (engines.get(engine) or next(iter(engines.values()))).items():
            mean_db, worst_db = float(loss["mean_db"]), float(loss["worst_db"])
            exact_db = math.inf if loss["to_fp32_db"] is None else float(loss["to_fp32_db"])
            photographs = content == "photographs"
            if mean_db > budget["photographs_db" if photographs else "drawn_db"]:
                return f"{content} lose {mean_db:.2f} dB"
            if not photographs and worst_db > budget["worst_db"]:
                return f"one picture of {content} loses {worst_db:.2f} dB"
            if not photographs and exact_db < budget["to_fp32_db"]:
                return f"{content} come to {exact_db:.1f} dB of FP32"
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, StopIteration):
        return "its bundle does not record what it loses on text, line art and flats: calibrate it again"
    return ""
