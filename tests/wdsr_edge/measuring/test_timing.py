"""Latency figures from calls whose duration is known."""

from __future__ import annotations

import pytest

from wdsr_edge.measuring import timing
from wdsr_edge.measuring.timing import TURNS, measure_in_turns


class Clock:
    """Time that passes only while a call is under way."""

    def __init__(self, durations: list[float]) -> None:
        self.now, self.durations, self.calls = 0.0, durations, 0

    def perf_counter(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += self.durations[min(self.calls, len(self.durations) - 1)]
        self.calls += 1


def test_warm_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([10.0, 10.0, 0.5])
    monkeypatch.setattr(timing, "time", clock)
    found = measure_in_turns({0: clock.call}, warmup=2, seconds=0, least=4, turns=1)[0]
    assert (found.runs, found.p50_ms, found.p99_ms, found.fps) == (4, 500, 500, 2)


def test_percentiles_and_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([0.01] * 90 + [0.1] * 10)
    monkeypatch.setattr(timing, "time", clock)
    found = measure_in_turns({0: clock.call}, warmup=0, seconds=1.85, least=1, turns=1)[0]
    assert found.runs == 100
    assert found.p50_ms == pytest.approx(10)
    assert found.p95_ms == pytest.approx(100)
    assert found.mean_ms == pytest.approx(19)
    assert found.fps == pytest.approx(1000 / 19)


def test_turns_share_the_time_and_each_begins_with_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([0.1])
    monkeypatch.setattr(timing, "time", clock)
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        clock.call()

    calls = {name: (lambda name=name: call(name)) for name in "ab"}  # type: ignore[misc]
    found = measure_in_turns(calls, warmup=1, seconds=TURNS * 0.35, least=1)
    assert {name: latency.runs for name, latency in found.items()} == {"a": TURNS * 4, "b": TURNS * 4}
    assert "".join(order) == ("a" * 5 + "b" * 5) * TURNS
    assert measure_in_turns(calls, seconds=0, least=10)["a"].runs == TURNS * 4
