"""Frames through a session that works on several batches at a time, as one on a GPU does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wdsr_edge.test_super_resolver import CONFIG, HALO, Nearest, Sums, noise, resolver
from wdsr_edge import BackendError, SuperResolver
from wdsr_edge.backends import AsyncSession


class Late(Sums):
    """Computes when a result is asked for, what the batch was when it was submitted."""

    activation_bytes = 1 << 30

    def __init__(self, in_flight: int = 2) -> None:
        super().__init__()
        self.in_flight = in_flight
        self.waiting = self.most = 0

    def submit(self, batch: Any) -> Any:
        kept = batch.copy()
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        session = self

        class Pending:
            def result(self) -> Any:
                session.waiting -= 1
                return session.run(kept)

        return Pending()

    def bare_ms(self, batch: Any, count: int) -> float:
        return float(batch.shape[1] * count)


def late(session: Late, **options: Any) -> SuperResolver:
    return SuperResolver(session, CONFIG, open_float_session=Nearest, **options)


def test_it_is_one() -> None:
    assert isinstance(Late(), AsyncSession)
    assert not isinstance(Nearest(), AsyncSession)
    assert (late(Late(3)).in_flight, resolver().in_flight) == (3, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 3), st.sampled_from(["rgb", "bgr"]))
def test_windows_are_worked_on_together_and_join_exactly(
    height: int, width: int, tile: int, in_flight: int, color: Any
) -> None:
    session = Late(in_flight)
    frame = noise(height, width, 3)
    with late(session, tile=tile, fixed_windows=True) as sr:
        np.testing.assert_array_equal(sr(frame, color), resolver(Sums(), tile=None)(frame, color))
    assert len(set(session.shapes)) == 1
    window = tile + 2 * HALO
    assert session.shapes[0][1:3] == (min(height, window), min(width, window)), "one engine serves every large frame"
    assert session.most == min(in_flight, len(session.shapes))
    assert session.waiting == 0


@pytest.mark.parametrize("shape", [(9, 7, 3), (9, 7), (9, 7, 1), (9, 7, 4)])
def test_every_kind_of_frame(shape: tuple[int, ...]) -> None:
    frame = noise(*shape)
    with late(Late(), tile=None) as sr:
        np.testing.assert_array_equal(sr(frame), resolver(Sums(), tile=None)(frame))


def test_submitted_frames_come_back_as_they_were_given() -> None:
    session = Late(2)
    with late(session) as sr:
        frames = [noise(6, 5, 3) for _ in range(20)]
        tickets = [sr.submit(frame) for frame in frames]
        for ticket, frame in reversed(list(zip(tickets, frames, strict=True))):
            np.testing.assert_array_equal(ticket.result(), resolver(Sums(), tile=None)(frame))
    assert session.most <= 2


def test_what_fails_later_is_the_callers() -> None:
    class Failing(Late):
        def run(self, batch: Any) -> Any:
            raise BackendError("the GPU failed")

    with late(Failing(), tile=4) as sr:
        with pytest.raises(BackendError, match="the GPU failed"):
            sr(noise(30, 30, 3))
        with pytest.raises(BackendError, match="the GPU failed"):
            sr.submit(noise(4, 4, 3)).result()


def test_the_engine_alone_is_timed_where_it_can_be() -> None:
    with late(Late(), tile=8) as sr:
        assert sr.engine_ms(noise(6, 5, 3), 7) == 42
        assert sr.engine_ms(noise(60, 5, 3)) is None, "several windows"
    assert resolver().engine_ms(noise(6, 5, 3)) is None


def test_a_gpu_takes_larger_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdsr_edge.super_resolver.ACTIVATION_BYTES", 1 << 20)
    frame = noise(4, 2500, 3)
    session, small = Late(), Nearest()
    with late(session) as sr:
        sr(frame)
    resolver(small)(frame)
    assert (len(session.shapes), len(small.shapes) > 1) == (1, True)
