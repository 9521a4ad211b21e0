"""The budget search: sensitivity of each layer, the frontier of drop against INT8 share, and what fits the budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .drop import Budget, Drop, Loss
from .network import Network
from .placement import Placement, body, placed
from .samples import PHOTOGRAPHS

Layers = Literal["all", "body"]
"""Where convolutions may be INT8."""

Identities = Literal["float", "int8", "auto"]
"""The identities of the residual adds: all float, all INT8, or INT8 as far as the budget allows."""


@dataclass(frozen=True)
class Point:
    """One placement that was measured."""

    placement: Placement
    losses: Mapping[str, Loss]
    """Loss of each content of the held-out images."""
    excess: float
    """The largest share of its budget that any of that takes."""
    share: float
    """INT8 share of the network's multiply-accumulates."""

    @property
    def drop_db(self) -> float:
        """PSNR on luma lost on the held-out photographs, dB."""
        return self.losses[PHOTOGRAPHS].mean_db


@dataclass(frozen=True)
class Found:
    """Result of a search."""

    best: Point
    """The most multiply-accumulates, then the most identities, that fit the budget; if none do, the least excess."""
    met: bool
    """True if ``best`` fits the budget."""
    frontier: Sequence[Point]
    """Every placement measured on the way from the least harmful convolution to all of them, and then identities."""
    sensitivity: dict[str, float]
    """dB that each convolution and each identity costs on photographs when it alone is INT8."""


def search(
    network: Network,
    drop: Drop,
    budget: Budget,
    identities: Identities,
    layers: Layers = "all",
    *,
    results: bool = False,
    in_full: bool = True,
    on_measured: Callable[[], None] = lambda: None,
) -> Found:
    """The placement with the most multiply-accumulates in INT8 that stays within ``budget`` on every content.

    With ``results``, those of the placed convolutions are INT8 too where a residual add takes them. Convolutions join
    in the order of what they cost alone for each multiply-accumulate, and each step is measured, for costs do not
    simply add. Unless it is to measure ``in_full``, all of them are tried first, and where they fit nothing else is
    measured. With ``auto``, identities then join the best placement one by one, the cheapest first, as long as the
    budget holds.
    """
    macs, always = network.macs, network.identities if identities == "int8" else ()
    candidates = body(network).convs if layers == "body" else network.quantisable

    def measure(convs: Sequence[str], adds: Sequence[str]) -> Point:
        placement = placed(network, convs, adds, results=results)
        losses = drop(network, placement)
        point = Point(placement, losses, budget.excess(losses), placement.share(macs))
        on_measured()
        return point

    if not in_full and identities != "auto":
        whole = measure(candidates, always)
        if whole.excess <= 1:
            return Found(whole, True, [whole], {})
    alone = {name: measure([name], []) for name in candidates}
    if identities != "float":
        alone |= {name: measure([], [name]) for name in network.identities}
    sensitivity = {name: point.drop_db for name, point in alone.items()}
    order = sorted(candidates, key=lambda name: alone[name].excess / macs[name])
    frontier = [measure(order[:count], always) for count in range(1, len(order) + 1)]
    fitting = [point for point in frontier if point.excess <= 1]
    if not fitting:
        return Found(min(frontier, key=lambda point: point.excess), False, frontier, sensitivity)
    best = max(fitting, key=lambda point: point.share)
    for name in sorted(network.identities, key=lambda name: alone[name].excess) if identities == "auto" else ():
        point = measure(best.placement.convs, (*best.placement.identities, name))
        frontier.append(point)
        if point.excess <= 1:
            best = point
    return Found(best, True, frontier, sensitivity)


def evaluations(network: Network, identities: Identities, layers: Layers, in_full: bool = True) -> int:
    """Number of placements ``search`` measures at most; unless ``in_full``, if the first of them fits."""
    if not in_full and identities != "auto":
        return 1
    adds = len(network.identities) * {"float": 0, "int8": 1, "auto": 2}[identities]
    return 2 * len(body(network).convs if layers == "body" else network.quantisable) + adds
