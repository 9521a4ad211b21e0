"""Every way to run a bundle on this machine: checked against the golden frame, then timed in turns."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from .._errors import WdsrError
from ..backends import COMPILED, EngineReport, GpuOptions, thread_count
from ..bundle import Bundle
from ..choices import Choice, graph_of
from ..images.files import Rgb
from ..images.samples import frame_of_size
from ..loading import open_bundle
from ..metrics import Difference
from ..proof.gates import check_golden
from ..super_resolver import SuperResolver, Tile
from .timing import Latency, measure_in_turns, measure_stream

Size = tuple[int, int]


@dataclass(frozen=True)
class Timed:
    """One way to run a bundle."""

    choice: Choice
    """Which."""
    golden: Difference | None
    """To the golden frame; None if the engine failed, or proves itself: then its reports tell."""
    fault: str
    """Why it was not timed: it is too far from the golden frame, or what the engine said. Empty if it was."""
    latency: Mapping[Size, Latency]
    """Host to host, for each LR height and width."""
    engine_ms: Mapping[Size, float] = field(default_factory=dict)
    """The engine alone, where it can tell: see SuperResolver.engine_ms."""
    stream_ms: Mapping[Size, float] = field(default_factory=dict)
    """Host to host for each frame of a stream, with several in flight, where the engine alone is known."""
    reports: Sequence[EngineReport] = ()
    """Of the engines that were compiled, or came out of the cache."""

    @property
    def golden_db(self) -> float | None:
        """PSNR of the golden frame to the reference, dB; of several engines the worst. None if it is not known."""
        found = [self.golden.psnr_db] if self.golden else [one.golden_db for one in self.reports]
        return min((decibels for decibels in found if decibels is not None), default=None)

    @property
    def p50_ms(self) -> float:
        """Total time of one frame of each size, to compare with others of the same run."""
        return sum(latency.p50_ms for latency in self.latency.values())


def compare(
    bundle: Bundle,
    among: Sequence[Choice],
    sizes: Sequence[Size],
    *,
    tile: Tile = "auto",
    gpu: GpuOptions | None = None,
    threads: int | None = None,
    warmup: int = 3,
    seconds: float = 2.0,
    on_step: Callable[[], None] = lambda: None,
) -> list[Timed]:
    """Open ``bundle`` in each way of ``among``, and time those that reproduce its golden frame.

    They take turns on each size (LR height, width), ``seconds`` each, so that a machine that slows down slows all.
    ``threads`` as in ``load``.
    """
    gpu, threads = gpu or GpuOptions(), thread_count(threads) or None
    reports: dict[Choice, list[EngineReport]] = {choice: [] for choice in among}
    with ExitStack() as stack:
        opened, found = {}, []
        for choice in among:
            options = replace(gpu, on_report=reports[choice].append)
            try:
                sr = stack.enter_context(open_bundle(bundle, choice, tile=tile, gpu=options, threads=threads))
                golden, fault = _check(bundle, choice, sr)
                for size in sizes if not fault else ():
                    sr(frame_of_size(*size))
            except WdsrError as error:
                found.append(Timed(choice, None, str(error), {}))
                continue
            except Exception as error:  # a bug, ours or an engine's, which is not to hide how the others do
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}:{place.lineno}"
                fault = f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:500]}: please report it"
                found.append(Timed(choice, None, fault, {}))
                continue
            found.append(Timed(choice, golden, fault, {}))
            if not fault:
                opened[choice] = sr
        times: dict[Choice, dict[Size, Latency]] = {choice: {} for choice in among}
        alone: dict[Choice, dict[Size, float]] = {choice: {} for choice in among}
        stream: dict[Choice, dict[Size, float]] = {choice: {} for choice in among}
        for size in sizes:
            calls = {choice: partial(sr, frame_of_size(*size)) for choice, sr in opened.items()}
            for choice, latency in measure_in_turns(calls, warmup=warmup, seconds=seconds).items():
                times[choice][size] = latency
                sr, frame = opened[choice], frame_of_size(*size)
                engine_ms = sr.engine_ms(frame)
                if engine_ms is not None:
                    alone[choice][size] = engine_ms
                    submit = partial(_submit, sr, frame)
                    stream[choice][size] = measure_stream(submit, sr.in_flight, seconds / 2)
            on_step()
    return [
        replace(
            one,
            latency=times[one.choice],
            engine_ms=alone[one.choice],
            stream_ms=stream[one.choice],
            reports=reports[one.choice],
        )
        for one in found
    ]


def _submit(sr: SuperResolver, frame: Rgb) -> Callable[[], object]:
    return sr.submit(frame).result


def _check(bundle: Bundle, choice: Choice, sr: SuperResolver) -> tuple[Difference | None, str]:
    """Difference to the golden frame, and what is wrong with it; compiled engines prove themselves."""
    if choice.backend in COMPILED:
        return None, ""
    golden, passed = check_golden(bundle, graph_of(choice), sr)
    return golden, "" if passed else f"{golden.psnr_db:.1f} dB to the golden frame is too little"
