"""Ratios that a noisy machine cannot blur: two ways of the same frame in turns, the median of their ratios.

Run: python -m benchmarks.paired [--rounds N] [--size WIDTHxHEIGHT]; prints Markdown for results/.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from benchmarks.networks import network
from benchmarks.test_frame_call import around_float
from wdsr_edge.backends import Session, open_session
from wdsr_edge.cli.sizes import parse_size
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.models import fold
from wdsr_export.graph import float_graph
from wdsr_export.passes import FLOAT_PASSES, UINT8_PASSES, Pass, pad_channels, shuffle_in_nhwc

MODELS = ("wdsr-b-1x32-x2", "wdsr-b-3x32-x2", "wdsr-a-3x32-x2", "wdsr-b-3x32-x3", "wdsr-b-3x32-x4", "edsr-1x32-x2")


def session(name: str, passes: tuple[Pass, ...]) -> Session:
    graph = float_graph(fold(network(name)))
    for run in passes:
        run(graph)
    return open_session("onnxruntime", ir.to_proto(graph).SerializeToString())


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median milliseconds of ``fast``, and the median over rounds of how much longer ``slow`` took."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        slow()
        middle = time.perf_counter()
        fast()
        times.append((middle - start, time.perf_counter() - middle))
    slows, fasts = np.array(times[2:]).T
    return float(np.median(fasts) * 1000), float(np.median(slows / fasts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--size", default="480x270")
    arguments = parser.parse_args()
    frame: NDArray[np.uint8] = frame_of_size(*parse_size(arguments.size))
    print(
        "| model | deploy graph, ms | numpy around the float graph | without pad_channels | without shuffle_in_nhwc |"
    )
    print("|---|---|---|---|---|")
    for name in MODELS:
        deployed, planar = session(name, UINT8_PASSES), session(name, FLOAT_PASSES)
        cells = []
        others: list[Callable[[], object]] = [lambda planar=planar: around_float(planar, frame)]  # type: ignore[misc]
        for left_out in (pad_channels, shuffle_in_nhwc):
            other = session(name, tuple(run for run in UINT8_PASSES if run is not left_out))
            others.append(lambda other=other: other.run(frame[None]))  # type: ignore[misc]
        for slow in others:
            milliseconds, times = ratio(slow, lambda d=deployed: d.run(frame[None]), arguments.rounds)  # type: ignore[misc]
            cells.append(f"{times:.3f} x")
        print(f"| {name} | {milliseconds:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
