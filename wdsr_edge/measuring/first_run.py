"""A GPU's first run of a model: compile, prove on the golden frame, and time with the clocks that it ran at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from .._errors import WdsrError
from ..backends import GpuOptions
from ..backends.tensorrt import Cuda, EngineConfig
from ..bundle import Bundle
from ..choices import Choice
from ..images.samples import frame_of_size
from ..loading import open_bundle
from .clocks import Clocks, read_clocks
from .comparison import Size, Timed, compare


@dataclass(frozen=True)
class FirstRun:
    """The result."""

    timed: Sequence[Timed]
    """Each way to run the model, with its engines and its times for each size."""
    clocks: Clocks
    """Clocks and power under load, read while the fastest choice ran the last size."""

    @property
    def slower_int8(self) -> list[str]:
        """A line for each engine and size in which INT8 takes longer than FP16."""
        p50 = {(one.choice, size): found.p50_ms for one in self.timed for size, found in one.latency.items()}
        return [
            f"INT8 in {choice.backend} is slower than FP16 for {w}x{h} ({ms:.2f} and {p50[other, (h, w)]:.2f} ms)"
            for (choice, (h, w)), ms in p50.items()
            for other in (choice._replace(precision="fp16"),)
            if choice.precision == "int8" and ms > p50.get((other, (h, w)), ms)
        ]


def first_run(
    bundle: Bundle,
    among: Sequence[Choice],
    configs: Sequence[EngineConfig],
    *,
    gpu: GpuOptions,
    seconds: float = 2.0,
    on_step: Callable[[], None] = lambda: None,
) -> FirstRun:
    """Compile ``bundle`` in each way of ``among`` for each of ``configs``, or take it out of the cache, and time it.

    Each is timed host to host on frames of the size that its first profile is best at, for ``seconds``. What cannot be
    compiled or proven says so in ``Timed.fault``.
    """
    found: dict[Choice, Timed] = {}
    for config in configs:
        size = config.profiles[0].best[1:]
        for one in compare(bundle, among, [size], gpu=replace(gpu, config=config), seconds=seconds, on_step=on_step):
            before = found.get(one.choice)
            found[one.choice] = _joined(before, one) if before else one
    timed = list(found.values())
    good = [one for one in timed if not one.fault]
    clocks = _clocks_at_work(bundle, min(good, key=lambda one: one.p50_ms).choice, size, gpu) if good else Clocks()
    return FirstRun(timed, clocks)


def _joined(one: Timed, other: Timed) -> Timed:
    """Results of two sizes, joined."""
    return replace(
        other,
        fault=one.fault or other.fault,
        latency={**one.latency, **other.latency},
        engine_ms={**one.engine_ms, **other.engine_ms},
        stream_ms={**one.stream_ms, **other.stream_ms},
        reports=[*one.reports, *other.reports],
    )


def _clocks_at_work(bundle: Bundle, choice: Choice, size: Size, gpu: GpuOptions) -> Clocks:
    """The clocks while frames go through, as an idle GPU's are low."""
    try:
        bus_id = Cuda(gpu.device).bus_id
    except WdsrError:
        bus_id = ""
    with open_bundle(bundle, choice, gpu=replace(gpu, in_full=False)) as sr, ThreadPoolExecutor(1) as pool:
        frame = frame_of_size(*size)
        for _ in range(20):
            sr(frame)
        reading = pool.submit(read_clocks, gpu.device, bus_id=bus_id)
        while not reading.done():
            sr(frame)
        return reading.result()
