"""``wdsr-edge upscale``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import (
    BackendOption,
    DeviceOption,
    EngineOption,
    JsonFlag,
    PrecisionOption,
    ThreadsOption,
    count,
    print_json,
    progress_bar,
    say,
)


def run(
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File or folder; default: NAME_xSCALE.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A zoo name or a bundle directory.")] = "wdsr-b-3x32-x2",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    format: Annotated[str, typer.Option(help="png, jpg, webp, bmp or tif; default: as each input.")] = "",
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of JPEG, AVIF, and WebP that is not lossless; the rest is lossless.")
    ] = 95,
    lossless: Annotated[
        bool | None,
        typer.Option(
            "--lossless/--lossy", help="How WebP is written; default: lossless if the input was.", show_default=False
        ),
    ] = None,
    tile: Annotated[int, typer.Option(min=0, help="Core edge of a tile in LR pixels; 0 is automatic.")] = 0,
    device: DeviceOption = 0,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Enlarge image files.

    Kept: transparency, 16 bits, resolution, colour profile, PNG's gAMA, cHRM, cICP and texts, EXIF, XMP, IPTC, comment.

    What the new format does not hold is named; colours of a profile that it does not hold are converted to sRGB.

    Not kept: thumbnails, gain maps, maker's own segments, PNG's bKGD, sBIT and private chunks, texts of over 1 MiB.

    A broken file among several is reported at the end and the rest is done (exit 1).
    """
    from .. import InputError, load
    from ..upscale import plan, upscale_files

    with load(
        model,
        backend=backend,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        device=device,
        engine=engine,
        tile=tile or "auto",
        threads=threads,
    ) as sr:
        jobs = plan(
            inputs, output, sr.scale, suffix=f".{format.lstrip('.')}" if format else "", lossless=bool(lossless)
        )
        with progress_bar() as bar:
            done = list(
                bar.track(upscale_files(sr, jobs, quality=quality, lossless=lossless), len(jobs), description="upscale")
            )
    failed = [entry for entry in done if entry.error]
    if failed and len(jobs) == 1:
        raise InputError(failed[0].error)
    if json:
        print_json(
            [
                {"source": str(d.job.source), "target": str(d.job.target), "error": d.error, "notes": d.notes}
                for d in done
            ]
        )
    for entry in done:
        if not entry.error:
            say(f"wrote {entry.job.target}" + (f" ({'; '.join(entry.notes)})" if entry.notes else ""))
    for entry in failed:
        say(f"failed: {entry.error}")
    if failed:
        say(f"{len(failed)} of {count(len(jobs), 'image')} failed")
        raise typer.Exit(1)
