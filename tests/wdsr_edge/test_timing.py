"""Latency figures from calls whose duration is known."""

from __future__ import annotations

import pytest

from wdsr_edge import timing
from wdsr_edge.timing import measure


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
    found = measure(clock.call, warmup=2, seconds=0, least=4)
    assert (found.runs, found.p50_ms, found.p99_ms, found.fps) == (4, 500, 500, 2)


def test_percentiles_and_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock([0.01] * 90 + [0.1] * 10)
    monkeypatch.setattr(timing, "time", clock)
    found = measure(clock.call, warmup=0, seconds=1.85, least=1)
    assert found.runs == 100
    assert found.p50_ms == pytest.approx(10)
    assert found.p95_ms == pytest.approx(100)
    assert found.mean_ms == pytest.approx(19)
    assert found.fps == pytest.approx(1000 / 19)
