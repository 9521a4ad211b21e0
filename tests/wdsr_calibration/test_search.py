"""The budget search, against costs that are made up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import trained_like
from wdsr_calibration.drop import Budget, Loss
from wdsr_calibration.network import Network
from wdsr_calibration.placement import Placement, body
from wdsr_calibration.samples import PHOTOGRAPHS
from wdsr_calibration.search import Found, Identities, evaluations, search
from wdsr_edge.models import ModelConfig

NETWORK = Network(trained_like(ModelConfig("wdsr-b", 2, 8, 2)))
NAMES = (*NETWORK.quantisable, *NETWORK.identities)
COSTS = st.fixed_dictionaries({name: st.floats(-0.01, 0.1) for name in NAMES})


class Costs:
    """A drop of photographs that adds up, and one of text that is ``text`` times as large."""

    def __init__(self, costs: dict[str, float], text: float = 1.0) -> None:
        self.costs, self.text = costs, text
        self.measured: list[Placement] = []

    def __call__(self, network: Network, placement: Placement) -> dict[str, Loss]:
        self.measured.append(placement)
        cost = sum(self.costs[name] for name in (*placement.convs, *placement.identities))
        text = cost * self.text
        return {PHOTOGRAPHS: Loss(cost, cost, math.inf), "text": Loss(text, text, math.inf)}


def budget_of(decibels: float) -> Budget:
    return Budget(decibels, 100.0, 100.0)


def found(costs: dict[str, float], budget: float, identities: Identities) -> tuple[Found, list[Placement]]:
    drop = Costs(costs)
    return search(NETWORK, drop, budget_of(budget), identities), drop.measured  # type: ignore[arg-type]


@settings(max_examples=200)
@given(costs=COSTS, budget=st.floats(0, 0.3), identities=st.sampled_from(("float", "int8", "auto")))
def test_the_best_is_the_largest_that_fits(costs: dict[str, float], budget: float, identities: Identities) -> None:
    result, measured = found(costs, budget, identities)
    fitting = [point for point in result.frontier if point.drop_db <= budget]
    assert result.met == bool(fitting)
    assert result.best in result.frontier
    if result.met:
        assert result.best.drop_db <= budget
        assert result.best.share == max(point.share for point in fitting)
    else:
        assert result.best.excess == min(point.excess for point in result.frontier)
    assert len(measured) <= evaluations(NETWORK, identities, "all")
    for point in result.frontier:
        assert point.placement.convs == tuple(name for name in NETWORK.quantisable if name in point.placement.convs)
        assert point.share == point.placement.share(NETWORK.macs)
    chosen = result.best.placement.identities
    if identities == "float":
        assert chosen == ()
    elif identities == "int8":
        assert chosen == NETWORK.identities


@settings(max_examples=100)
@given(costs=COSTS)
def test_a_wide_budget_takes_everything_and_sensitivity_is_of_each_alone(costs: dict[str, float]) -> None:
    result, _ = found(costs, 10, "auto")
    assert result.best.placement == Placement(NETWORK.quantisable, NETWORK.identities)
    assert result.best.share > 0.7
    assert result.sensitivity == pytest.approx(costs)


def test_the_body_alone() -> None:
    drop = Costs(dict.fromkeys(NAMES, 0.0))
    result = search(NETWORK, drop, budget_of(1.0), "auto", "body", results=True)  # type: ignore[arg-type]
    assert result.best.placement == body(NETWORK, identities=True, results=True)
    assert len(drop.measured) <= evaluations(NETWORK, "auto", "body") < evaluations(NETWORK, "auto", "all")


def test_the_dearest_convolution_is_left_out_first() -> None:
    costs = dict.fromkeys(NAMES, 0.0) | {"tail": 0.2}
    result, _ = found(costs, 0.1, "float")
    assert set(NETWORK.quantisable) - set(result.best.placement.convs) == {"tail"}


def test_identities_join_the_cheapest_first() -> None:
    costs = dict.fromkeys(NAMES, 0.0) | {"add": 0.06, "add_1": 0.05}
    assert found(costs, 0.07, "auto")[0].best.placement.identities == ("add_1",)


def test_no_budget_is_met_only_by_what_costs_nothing() -> None:
    result, _ = found(dict.fromkeys(NAMES, 0.01), 0.0, "float")
    assert not result.met
    assert len(result.best.placement.convs) == 1
    result, _ = found(dict.fromkeys(NAMES, 0.0), 0.0, "float")
    assert result.met


def test_what_one_kind_of_picture_loses_counts_as_photographs_do() -> None:
    drop = Costs(dict.fromkeys(NAMES, 0.0) | {"tail": 0.01, "body.0.branch.3": 0.001}, text=20)
    result = search(NETWORK, drop, Budget(0.02, 0.05, 0.1), "float")  # type: ignore[arg-type]
    assert set(NETWORK.quantisable) - set(result.best.placement.convs) == {"tail"}
    assert result.met


def test_where_all_of_it_fits_nothing_else_need_be_measured() -> None:
    drop = Costs(dict.fromkeys(NAMES, 0.001))
    result = search(NETWORK, drop, budget_of(1.0), "int8", in_full=False)  # type: ignore[arg-type]
    assert drop.measured == [result.best.placement] == [Placement(NETWORK.quantisable, NETWORK.identities)]
    assert evaluations(NETWORK, "int8", "all", in_full=False) == 1
    tight = search(NETWORK, drop, budget_of(0.003), "int8", in_full=False)  # type: ignore[arg-type]
    assert tight.best.share < result.best.share
