"""Latency, measured so that it can be believed: warmed up, host to host, with its tail."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Wall time of one call, over many."""

    runs: int
    """Calls that were timed."""
    p50_ms: float
    """Median."""
    p95_ms: float
    """95th percentile."""
    p99_ms: float
    """99th percentile; with fewer than 100 runs it is close to the slowest."""
    mean_ms: float
    """Mean."""
    fps: float
    """Calls a second, one after the other: 1000 / mean."""


Key = TypeVar("Key")

TURNS = 3
"""Number of turns of each call."""


def measure_in_turns(
    calls: Mapping[Key, Callable[[], object]],
    *,
    warmup: int = 3,
    seconds: float = 2.0,
    least: int = 10,
    turns: int = TURNS,
) -> dict[Key, Latency]:
    """Time each of ``calls`` for ``seconds`` and at least ``least`` times, in turns: what slows the machine slows all.

    At the start of each turn ``warmup`` calls do not count, as another's threads may still spin. A call must return
    only when its result is in host memory.
    """
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(turns):
        for key, call in calls.items():
            for _ in range(warmup):
                call()
            times[key] += _times(call, seconds / turns, -(-least // turns))
    return {key: _latency(found) for key, found in times.items()}


def measure_stream(
    submit: Callable[[], Callable[[], object]], in_flight: int, seconds: float, *, least: int = 20
) -> float:
    """Milliseconds for each call of a stream of them, of which ``in_flight`` are under way at a time.

    ``submit`` begins one and returns what waits for its result.
    """
    waiting: deque[Callable[[], object]] = deque()
    for _ in range(in_flight):
        waiting.append(submit())
    done, start = 0, time.perf_counter()
    while done < least or time.perf_counter() < start + seconds:
        waiting.popleft()()
        waiting.append(submit())
        done += 1
    end = time.perf_counter()
    for wait in waiting:
        wait()
    return (end - start) * 1000 / done


def _times(call: Callable[[], object], seconds: float, least: int) -> list[float]:
    """Milliseconds of each call."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return times


def _latency(times: list[float]) -> Latency:
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    mean = float(np.mean(times))
    return Latency(len(times), p50, p95, p99, mean, 1000 / mean)
