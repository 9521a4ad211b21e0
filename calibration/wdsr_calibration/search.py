"""The budget search: sensitivity of each layer, the frontier of drop against INT8 share, and what fits the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .drop import Drop
from .network import Network
from .placement import Placement, body

Layers = Literal["all", "body"]
"""Where convolutions may be INT8."""

Identities = Literal["float", "int8", "auto"]
"""The identities of the residual adds: all float, all INT8, or INT8 as far as the budget allows."""


@dataclass(frozen=True)
class Point:
    """One placement that was measured."""

    placement: Placement
    drop_db: float
    """PSNR on luma lost on the held-out images."""
    share: float
    """INT8 share of the network's multiply-accumulates."""


@dataclass(frozen=True)
class Found:
    """What a search found."""

    best: Point
    """The most multiply-accumulates, then the most identities, that fit the budget; if none do, the least drop."""
    met: bool
    """Whether ``best`` fits the budget."""
    frontier: Sequence[Point]
    """Every placement measured on the way from the least harmful convolution to all of them, and then identities."""
    sensitivity: dict[str, float]
    """dB that each convolution and each identity costs when it alone is INT8."""


def search(
    network: Network,
    drop: Drop,
    max_drop: float,
    identities: Identities,
    layers: Layers = "all",
    *,
    on_measured: Callable[[], None] = lambda: None,
) -> Found:
    """The placement with the most multiply-accumulates in INT8 whose drop is at most ``max_drop`` dB.

    Convolutions join in the order of what they cost alone for each multiply-accumulate, and each step is measured, for
    costs do not simply add. With ``auto``, identities then join the best placement one by one, the cheapest first, as
    long as the budget holds.
    """
    macs, always = network.macs, network.identities if identities == "int8" else ()
    candidates = body(network).convs if layers == "body" else network.quantisable

    def measure(convs: Sequence[str], adds: Sequence[str]) -> Point:
        placement = Placement(
            tuple(name for name in network.quantisable if name in convs),
            tuple(name for name in network.identities if name in adds),
        )
        point = Point(placement, drop(network, placement), placement.share(macs))
        on_measured()
        return point

    alone = {name: measure([name], []).drop_db for name in candidates}
    if identities != "float":
        alone |= {name: measure([], [name]).drop_db for name in network.identities}
    order = sorted(candidates, key=lambda name: max(alone[name], 0) / macs[name])
    frontier = [measure(order[:count], always) for count in range(1, len(order) + 1)]
    fitting = [point for point in frontier if point.drop_db <= max_drop]
    if not fitting:
        return Found(min(frontier, key=lambda point: point.drop_db), False, frontier, alone)
    best = max(fitting, key=lambda point: point.share)
    for name in sorted(network.identities, key=lambda name: alone[name]) if identities == "auto" else ():
        point = measure(best.placement.convs, (*best.placement.identities, name))
        frontier.append(point)
        if point.drop_db <= max_drop:
            best = point
    return Found(best, True, frontier, alone)


def evaluations(network: Network, identities: Identities, layers: Layers) -> int:
    """How many placements ``search`` measures at most."""
    adds = len(network.identities) * {"float": 0, "int8": 1, "auto": 2}[identities]
    return 2 * len(body(network).convs if layers == "body" else network.quantisable) + adds
