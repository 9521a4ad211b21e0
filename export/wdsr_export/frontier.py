"""The picture of a budget search."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from wdsr_calibration import Calibration
from wdsr_edge._errors import require
from wdsr_edge.bundle import Graph


def draw_frontier(found: Mapping[Graph, tuple[Calibration, Sequence[Mapping[str, float]]]], max_drop: float) -> bytes:
    """Drop against INT8 share of each graph's search, its choice and the budget marked, as PNG.

    With the ms of each point in each engine, those of the fastest stand beside it.
    """
    require("matplotlib", "export").use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for graph, (calibration, times) in found.items():
        for point, ms in zip(calibration.frontier, times, strict=False):
            axes.annotate(f"{min(ms.values()):.0f} ms", (100 * point.share, point.drop_db), fontsize=7)
        points = sorted(calibration.frontier, key=lambda point: (point.share, len(point.placement.identities)))
        (line,) = axes.plot(
            [100 * point.share for point in points], [point.drop_db for point in points], ".-", label=graph
        )
        axes.plot(100 * calibration.share, calibration.drop_db, "o", color=line.get_color(), markersize=9)
    axes.axhline(max_drop, color="grey", linestyle=":", label="budget")
    axes.set(xlabel="multiply-accumulates in INT8, %", ylabel="drop of PSNR on luma, dB")
    axes.legend()
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()
