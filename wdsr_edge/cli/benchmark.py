"""``wdsr-edge benchmark``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from .output import BundleArgument, JsonFlag, print_json, print_table, progress_bar
from .sizes import parse_size


def run(
    model: BundleArgument = "wdsr-b-3x32-x2",
    size: Annotated[list[str] | None, typer.Option(help="LR frame, WIDTHxHEIGHT; may be repeated.")] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, max=3600.0, help="Time for each size, and at least 10 calls.")
    ] = 3.0,
    warmup: Annotated[int, typer.Option(min=0, help="Calls that do not count.")] = 3,
    tile: Annotated[int, typer.Option(min=0, help="Core edge in LR pixels; 0 is automatic.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Time frames host to host: uint8 array in, uint8 array out, tiling included."""
    from .. import load
    from ..samples import frame_of_size
    from ..timing import measure

    sizes = [parse_size(text) for text in size or ("480x270", "640x360", "960x540", "1280x720")]
    found = []
    with load(model, tile=tile or "auto") as sr, progress_bar() as bar:
        for height, width in bar.track(sizes, description="benchmark"):
            frame = frame_of_size(height, width)
            latency = measure(lambda frame=frame: sr(frame), warmup=warmup, seconds=seconds)  # type: ignore[misc]
            found.append(((height, width), latency))
    if json:
        entries = [{"height": h, "width": w, **dataclasses.asdict(latency)} for (h, w), latency in found]
        print_json({"model": sr.config.name, "backend": sr.backend, "precision": sr.precision, "sizes": entries})
        return
    s = sr.scale
    rows = [
        (
            f"{w}x{h} -> {w * s}x{h * s}",
            *(f"{value:.1f}" for value in (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.fps)),
            str(latency.runs),
        )
        for (h, w), latency in found
    ]
    title = f"{sr.config.name}, {sr.backend} {sr.precision}, host to host"
    print_table(title, ("frame", "p50 ms", "p95 ms", "p99 ms", "frames/s", "runs"), rows)
