"""``wdsr-edge benchmark``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._errors import BackendError, InputError
from .output import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    EngineOption,
    JsonFlag,
    PrecisionOption,
    ThreadsOption,
    decibels,
    print_json,
    print_table,
    progress_bar,
    say,
)
from .sizes import parse_size

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..chosen import Chosen
    from ..measuring.comparison import Size, Timed


def run(
    model: BundleArgument = "wdsr-b-3x32-x2",
    size: Annotated[list[str] | None, typer.Option(help="LR frame, WIDTHxHEIGHT; may be repeated.")] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    seconds: Annotated[
        float, typer.Option(min=0.0, max=3600.0, help="Time for each size, and at least 10 calls.")
    ] = 3.0,
    warmup: Annotated[int, typer.Option(min=0, help="Calls that do not count.")] = 3,
    tile: Annotated[int, typer.Option(min=0, help="Core edge in LR pixels; 0 is automatic.")] = 0,
    device: DeviceOption = 0,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Time frames host to host, uint8 array in and out, in every engine here and every precision that suits it.

    Each is first checked against the bundle's golden frame. Unless the choice was narrowed, or another GPU than the
    first or an engine was named, the fastest is remembered, and is what auto then means for this bundle on this machine
    (with --threads: for that many). FP16 on a CPU is timed if asked for.
    """
    from ..backends import GpuOptions
    from ..bundle import Bundle
    from ..loading import find_bundle, fitting
    from ..measuring.comparison import compare

    bundle, gpu = Bundle.load(find_bundle(model)), GpuOptions(device, engine=engine)
    among = fitting(bundle, backend, precision, gpu=gpu, threads=threads)  # type: ignore[arg-type]
    sizes = _sizes(size, engine)
    with progress_bar() as bar:
        task = bar.add_task("benchmark", total=len(sizes))
        timed = compare(
            bundle,
            among,
            sizes,
            tile=tile or "auto",
            gpu=gpu,
            threads=threads,
            warmup=warmup,
            seconds=seconds,
            on_step=lambda: bar.advance(task),
        )
    if all(one.fault for one in timed):
        raise BackendError(f"nothing could be timed: {'; '.join(dict.fromkeys(one.fault for one in timed))}")
    say_faults(timed)
    if backend == precision == "auto" and not tile and not device and not engine:
        keep_fastest(bundle, timed, threads=threads)
    auto = auto_now(bundle, threads=threads)
    if json:
        print_json({"model": bundle.name, "choices": document_of(timed), "auto": auto.document()})
        say(str(auto))
        return
    s = bundle.config.scale
    rows = [
        (
            f"{w}x{h} -> {w * s}x{h * s}",
            one.choice.backend,
            one.choice.precision,
            *(f"{value:.1f}" for value in (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.fps)),
            str(latency.runs),
        )
        for h, w in sizes
        for one in timed
        if (latency := one.latency.get((h, w))) is not None
    ]
    header = ("frame", "engine", "precision", "p50 ms", "p95 ms", "p99 ms", "frames/s", "runs")
    print_table(f"{bundle.name}, host to host", header, rows)
    say(str(auto))


def _sizes(asked: Sequence[str] | None, engine: Path | None) -> list[Size]:
    """Sizes asked for; else those that an engine is built for, if known; else three common ones."""
    from ..backends.tensorrt import profiles_beside

    if asked or engine is None or not (profiles := profiles_beside(engine)):
        return [parse_size(text) for text in dict.fromkeys(asked or ("480x270", "960x540", "1280x720"))]
    return [parse_size(text) for text in dict.fromkeys(f"{one.best.width}x{one.best.height}" for one in profiles)]


def say_faults(timed: Sequence[Timed]) -> None:
    """One line for each choice that was not timed."""
    for one in timed:
        if one.fault:
            say(f"{one.choice.backend} {one.choice.precision} was not timed: {one.fault}")


def keep_fastest(bundle: Bundle, timed: Sequence[Timed], *, threads: int | None = None) -> None:
    """Remember what was timed, for ``auto``."""
    from ..backends import thread_count
    from ..choices import Known, graph_of, remember
    from ..proof.gates import over_budget

    good = [one for one in timed if not one.fault and one.latency]
    known = {}
    for one in good:
        (h, w), latency = next(iter(one.latency.items()))
        known[one.choice] = Known(f"{w}x{h}", latency.p50_ms, one.golden_db)
    try:
        remember(bundle, {one.choice: one.p50_ms for one in good}, threads=thread_count(threads), known=known)
    except InputError as error:
        say(f"could not save the timings, so auto will not use them: {error}")
    for one in good:
        reason = over_budget(graph_of(one.choice), one.choice.backend, bundle.manifest)
        if reason:
            say(f"auto leaves {one.choice.precision} in {one.choice.backend} alone, whatever it takes: {reason}")


def auto_now(bundle: Bundle, *, threads: int | None = None) -> Chosen:
    """Current meaning of ``auto`` for a bundle on this machine."""
    from ..backends import thread_count
    from ..chosen import chosen
    from ..loading import candidates

    return chosen(bundle, candidates(bundle, threads=threads)[0], threads=thread_count(threads))


def document_of(timed: Sequence[Timed]) -> list[dict[str, Any]]:
    """Timings, for JSON."""
    return [
        {
            **one.choice._asdict(),
            "golden_db": one.golden_db,
            "fault": one.fault,
            "sizes": [
                {
                    "height": h,
                    "width": w,
                    **dataclasses.asdict(found),
                    "stream_ms": one.stream_ms.get((h, w)),
                    "engine_ms": one.engine_ms.get((h, w)),
                }
                for (h, w), found in one.latency.items()
            ],
            "engines": [dataclasses.asdict(report) for report in one.reports],
        }
        for one in timed
    ]


def rows_of(choices: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each size and way to run it, of what ``document_of`` has, once through JSON or not."""
    return [
        (
            f"{size['width']}x{size['height']}",
            one["backend"],
            one["precision"],
            "" if one["golden_db"] is None else decibels(float(one["golden_db"])),
            *(
                "" if size[key] is None else f"{size[key]:.2f}"
                for key in ("p50_ms", "p99_ms", "stream_ms", "engine_ms")
            ),
        )
        for one in choices
        for size in one["sizes"]
    ]


ROWS = ("frame", "engine", "precision", "golden frame", "p50 ms", "p99 ms", "in a stream ms", "engine alone ms")
"""Header of ``rows_of``."""
