"""Every way to run a bundle on this machine: checked against the golden frame, then timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from ._errors import BackendError, BundleError
from .bundle import Bundle
from .gates import check_golden
from .loading import open_bundle
from .metrics import Difference
from .samples import frame_of_size
from .speed import Choice, graph_of
from .super_resolver import Tile
from .timing import Latency, measure_in_turns

Size = tuple[int, int]


@dataclass(frozen=True)
class Timed:
    """One way to run a bundle."""

    choice: Choice
    """Which."""
    golden: Difference | None
    """To the golden frame; None if the engine failed."""
    fault: str
    """Why it was not timed: it is too far from the golden frame, or what the engine said. Empty if it was."""
    latency: Mapping[Size, Latency]
    """Host to host, for each LR height and width."""

    @property
    def p50_ms(self) -> float:
        """What it took in all, one frame of each size; for comparing with others of the same run."""
        return sum(latency.p50_ms for latency in self.latency.values())


def compare(
    bundle: Bundle,
    among: Sequence[Choice],
    sizes: Sequence[Size],
    *,
    tile: Tile = "auto",
    warmup: int = 3,
    seconds: float = 2.0,
    on_step: Callable[[], None] = lambda: None,
) -> list[Timed]:
    """Open ``bundle`` in each way of ``among``, and time those that reproduce its golden frame.

    They take turns on each size (LR height, width), ``seconds`` each, so that a machine that slows down slows all.
    """
    with ExitStack() as stack:
        opened, found = {}, []
        for choice in among:
            try:
                sr = stack.enter_context(open_bundle(bundle, choice, tile=tile))
                golden, passed = check_golden(bundle, graph_of(choice), sr)
                for size in sizes if passed else ():
                    sr(frame_of_size(*size))
            except (BackendError, BundleError) as error:
                found.append(Timed(choice, None, str(error), {}))
                continue
            fault = "" if passed else f"{golden.psnr_db:.1f} dB to the golden frame is too little"
            found.append(Timed(choice, golden, fault, {}))
            if passed:
                opened[choice] = sr
        times: dict[Choice, dict[Size, Latency]] = {choice: {} for choice in among}
        for size in sizes:
            calls = {choice: partial(sr, frame_of_size(*size)) for choice, sr in opened.items()}
            for choice, latency in measure_in_turns(calls, warmup=warmup, seconds=seconds).items():
                times[choice][size] = latency
            on_step()
    return [Timed(one.choice, one.golden, one.fault, times[one.choice]) for one in found]
