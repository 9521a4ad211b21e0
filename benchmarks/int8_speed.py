"""INT8 against FP32 on a CPU: processor time of one frame on one thread, in turns.

Run: python -m benchmarks.int8_speed [MODEL...] [--before DIR] [--rounds N] [--size WIDTHxHEIGHT]; prints Markdown.

A ratio is the median over rounds of one run's time divided by the other's of the same round, as the machine's speed
changes from round to round. ``--before`` is a folder of older bundles of the same names, to compare INT8 with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from wdsr_edge.backends import ON_CPU, open_session
from wdsr_edge.bundle import Bundle, Graph
from wdsr_edge.cli.sizes import parse_size
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.loading import ZOO, find_bundle


def processor_ms(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of processor time of each call in each round; one round before them warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append((time.process_time() - start) * 1000)
    return {name: np.array(found[1:]) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=sorted(path.parent.name for path in ZOO.glob("*/manifest.json")))
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", default="480x270")
    arguments = parser.parse_args()
    frame = frame_of_size(*parse_size(arguments.size))[None]
    print("| model | backend | FP32, ms | INT8, ms | INT8 / FP32 | INT8 / before |\n|---|---|---|---|---|---|")
    for name in arguments.models:
        bundle = Bundle.load(find_bundle(name))
        graphs: dict[str, tuple[Bundle, Graph]] = {"fp32": (bundle, "fp32"), "int8": (bundle, "int8-cpu")}
        if arguments.before:
            graphs["before"] = (Bundle.load(arguments.before / bundle.name), "int8-cpu")
        for backend in ON_CPU:
            sessions = {key: open_session(backend, one.onnx(graph), threads=1) for key, (one, graph) in graphs.items()}
            found = processor_ms({key: partial(one.run, frame) for key, one in sessions.items()}, arguments.rounds)
            ratio = np.median(found["int8"] / found["fp32"])
            old = f"{np.median(found['int8'] / found['before']):.2f}" if "before" in found else ""
            cells = (f"{np.median(found[key]):.0f}" for key in ("fp32", "int8"))
            print(f"| {name} | {backend} | {' | '.join(cells)} | {ratio:.2f} | {old} |", flush=True)
            for session in sessions.values():
                session.close()


if __name__ == "__main__":
    main()
