"""The budget search, against costs that are made up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import trained_like
from wdsr_calibration.network import Network
from wdsr_calibration.placement import Placement, body
from wdsr_calibration.search import Found, Identities, evaluations, search
from wdsr_edge.models import ModelConfig

NETWORK = Network(trained_like(ModelConfig("wdsr-b", 2, 8, 2)))
NAMES = (*NETWORK.quantisable, *NETWORK.identities)
COSTS = st.fixed_dictionaries({name: st.floats(-0.01, 0.1) for name in NAMES})


def found(costs: dict[str, float], budget: float, identities: Identities) -> tuple[Found, list[Placement]]:
    """With costs that add up."""
    measured: list[Placement] = []

    def drop(network: Network, placement: Placement) -> float:
        measured.append(placement)
        return sum(costs[name] for name in (*placement.convs, *placement.identities))

    return search(NETWORK, drop, budget, identities), measured


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
        assert result.best.drop_db == min(point.drop_db for point in result.frontier)
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
    assert result.sensitivity == costs


def test_the_body_alone() -> None:
    measured: list[Placement] = []

    def drop(network: Network, placement: Placement) -> float:
        measured.append(placement)
        return 0.0

    result = search(NETWORK, drop, 1.0, "auto", "body")  # type: ignore[arg-type]
    assert result.best.placement == body(NETWORK, identities=True)
    assert len(measured) <= evaluations(NETWORK, "auto", "body") < evaluations(NETWORK, "auto", "all")


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
