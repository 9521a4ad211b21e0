"""Overhead of the wrapper over the bare session: CPU time on one thread, paired in turns; and its peak memory.

Run: python -m benchmarks.tiling [MODEL ...] [--backend NAME] [--precision NAME] [--rounds N]; prints Markdown.
The bare session takes the whole frame at once, so 2.4 GB at 1280x720 and 5 GB at 1920x1080 in ONNX Runtime. With
--windows: the cost of a pixel by the size of a window, without the wrapper.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

import wdsr_edge
from wdsr_edge import Bundle, SuperResolver
from wdsr_edge.backends import Session, open_session
from wdsr_edge.choices import Choice, graph_of
from wdsr_edge.cli.sizes import parse_size
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.loading import find_bundle

MODELS = ("wdsr-b-1x32-x2", "wdsr-b-3x32-x2", "wdsr-a-3x32-x2")
SIZES = ("256x256", "480x270", "960x540", "1280x720", "1920x1080", "3840x2160")
LARGEST_BARE = 1920 * 1080
WINDOWS = ("64x64", "128x128", "256x256", "330x330", "420x420", "480x32", "480x96", "480x270", "960x100", "960x540")

PEAK = """
import sys
import numpy as np
import wdsr_edge
with wdsr_edge.load(sys.argv[1], backend=sys.argv[2], precision=sys.argv[3]) as sr:
    for _ in range(2):
        sr(np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8))
# Not ru_maxrss, which begins with the peak of the process that started this one.
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024 / 1e6)
"""


def seconds(call: Callable[[], object]) -> float:
    """CPU time of ``call``: other processes slow it less than wall time."""
    start = time.process_time()
    call()
    return time.process_time() - start


def compare(sr: SuperResolver, bare: Session, size: str, rounds: int) -> str:
    """A row for one size: in each round both have their turn, and who is first alternates."""
    frame = frame_of_size(*parse_size(size))
    pixels, windows = frame[..., 0].size, len(sr._windows(*frame.shape[:2]))
    calls = {"wrapper": lambda: sr(frame)}
    if pixels <= LARGEST_BARE:
        calls["bare"] = lambda: bare.run(frame[None])[0]
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name in sorted(calls, reverse=bool(turn % 2)):
            repeats = max(1, 200_000 // pixels)
            spent = seconds(lambda name=name, repeats=repeats: [calls[name]() for _ in range(repeats)])  # type: ignore[misc]
            if turn:
                times[name].append(spent / repeats)
    ns = np.median(times["wrapper"]) / pixels * 1e9
    cells = ["", ""]
    if "bare" in times:
        cells[0] = f"{np.median(np.divide(times['wrapper'], times['bare'])):.3f}"
        cells[1] = f"{min(times['wrapper']) / min(times['bare']):.3f}"
    return f"| {size} | {windows} | {ns:,.0f} | {min(times['wrapper']) / pixels * 1e9:,.0f} | {' | '.join(cells)} |"


def by_window(bare: Session, rounds: int) -> None:
    """The cost of a pixel, in turns, relative to 480x270."""
    times: dict[str, list[float]] = {size: [] for size in WINDOWS}
    for turn in range(rounds + 1):
        for size in WINDOWS:
            height, width = parse_size(size)
            batch = frame_of_size(height, width)[None]
            repeats = max(1, 100_000 // (height * width))
            bare.run(batch)
            spent = seconds(lambda batch=batch, repeats=repeats: [bare.run(batch) for _ in range(repeats)])  # type: ignore[misc]
            if turn:
                times[size].append(spent / repeats / (height * width))
    base = np.median(times["480x270"])
    print("| " + " | ".join(WINDOWS) + " |\n" + "|---" * len(WINDOWS) + "|")
    print("| " + " | ".join(f"{np.median(times[size]) / base:.2f}" for size in WINDOWS) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--windows", action="store_true")
    given = parser.parse_args()
    for model in given.models:
        bundle = Bundle.load(find_bundle(model))
        choice = Choice(given.backend, given.precision)
        bare = open_session(choice.backend, bundle.onnx(graph_of(choice)), choice.precision, threads=1)
        print(f"\n{model}, {given.precision} in {given.backend}\n")
        if given.windows:
            by_window(bare, given.rounds)
            continue
        print("| frame | windows | ns for each pixel | least | over the bare session | least over least |")
        print("|---|---|---|---|---|---|")
        with wdsr_edge.load(model, backend=given.backend, precision=given.precision, threads=1) as sr:
            for size in given.sizes:
                print(compare(sr, bare, size, given.rounds), flush=True)
        command = [sys.executable, "-c", PEAK, model, given.backend, given.precision]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"\nPeak at 1280x720: {float(peak):.0f} MB", flush=True)


if __name__ == "__main__":
    main()
