"""Submitted frames: the queue, its tickets, and what ends them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wdsr_edge
from tests.wdsr_edge.test_async_sessions import Late, late
from tests.wdsr_edge.test_super_resolver import CONFIG, Nearest, noise, resolver
from wdsr_edge import BackendError, DroppedError, InputError, SuperResolver, Ticket, WdsrError


class Gate(Nearest):
    """An engine that stops at each frame until it is let on, and notes the level of each frame it began."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []
        self.started = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def run(self, batch: Any) -> Any:
        self.begun.append(int(batch.flat[0]))
        self.started.release()
        assert self.open.acquire(timeout=20)
        return super().run(batch)

    def let_on(self, frames: int = 1000) -> None:
        self.open.release(frames)


def level(n: int) -> Any:
    return np.full((2, 2, 3), n, np.uint8)


@contextmanager
def gated(queue_size: int | None = None) -> Iterator[tuple[SuperResolver, Gate]]:
    """A resolver that has begun frame 0 and stopped there."""
    gate = Gate()
    sr = SuperResolver(gate, CONFIG, open_float_session=Nearest, queue_size=queue_size)
    sr.submit(level(0))
    assert gate.started.acquire(timeout=10)
    try:
        yield sr, gate
    finally:
        gate.let_on()
        sr.close()


def in_thread(call: Callable[[], object]) -> concurrent.futures.Future[Any]:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def waits(future: concurrent.futures.Future[Any]) -> bool:
    """Whether it is still not done after a moment."""
    return not concurrent.futures.wait([future], 0.05).done


# The queue


@pytest.mark.parametrize(("size", "fits"), [(None, 2), (1, 1), (5, 5)])
def test_submit_waits_when_the_queue_is_full(size: int | None, fits: int) -> None:
    with gated(size) as (sr, gate):
        for n in range(fits):
            sr.submit(level(1 + n))
        blocked = in_thread(lambda: sr.submit(level(99)))
        assert waits(blocked)
        gate.let_on(1)
        assert isinstance(blocked.result(10), Ticket)
        gate.let_on()
        assert (blocked.result().result(10) == 99).all()
        assert gate.begun == [*range(fits + 1), 99]


def test_the_queue_grows_with_what_is_worked_on_at_a_time() -> None:
    """On a GPU two frames are under way and four wait."""
    go = threading.Event()

    class Stuck(Late):
        def run(self, batch: Any) -> Any:
            go.wait(20)
            return super().run(batch)

    with late(Stuck(2)) as sr:
        tickets = [sr.submit(level(n)) for n in range(6)]
        blocked = in_thread(lambda: sr.submit(level(6)))
        assert waits(blocked)
        go.set()
        assert [ticket.result(10).shape for ticket in [*tickets, blocked.result(10)]] == [(4, 4, 3)] * 7


def test_memory_stays_bounded_however_fast_frames_are_submitted() -> None:
    """A thread that submits without asking for results holds a few frames, not all of them."""
    frames: list[weakref.ref[Any]] = []
    most = 0
    with resolver(Nearest(work=lambda: time.sleep(0.001))) as sr:
        for _ in range(100):
            frame = noise(2, 2, 3)
            frames.append(weakref.ref(frame))
            sr.submit(frame)
            del frame
            most = max(most, sum(one() is not None for one in frames))
    assert most <= 4


def test_latest_drops_the_oldest_that_was_not_begun() -> None:
    with gated() as (sr, gate):
        tickets = [sr.submit(level(n), policy="latest") for n in range(1, 8)]
        assert [ticket.cancelled() for ticket in tickets] == [True] * 5 + [False] * 2
        with pytest.raises(DroppedError, match="dropped for a newer one"):
            tickets[0].result(10)
        gate.let_on()
        assert [int(ticket.result(10).max()) for ticket in tickets[5:]] == [6, 7]
        assert gate.begun == [0, 6, 7]


def test_a_dropped_frame_is_told_to_whoever_waits_for_it() -> None:
    with gated(1) as (sr, _):
        ticket = sr.submit(level(1), policy="latest")
        waiting = in_thread(ticket.result)
        sr.submit(level(2), policy="latest")
        assert isinstance(waiting.exception(10), DroppedError)
        assert concurrent.futures.wait([ticket], 10).done == {ticket}


@given(st.lists(st.sampled_from(["block", "latest", "cancel"]), max_size=30), st.integers(1, 4), st.integers(1, 3))
def test_frames_begin_in_order_and_each_ticket_is_its_own(steps: list[str], size: int, in_flight: int) -> None:
    class Noting(Late):
        def __init__(self) -> None:
            super().__init__(in_flight)
            self.order: list[int] = []

        def submit(self, batch: Any) -> Any:
            self.order.append(int(batch.flat[0]))
            return super().submit(batch)

        def enlarge(self, batch: Any, rows: int, columns: int) -> Any:
            return Nearest.enlarge(self, batch, rows, columns)

    session = Noting()
    with late(session, queue_size=size) as sr:
        tickets = []
        for n, step in enumerate(steps):
            tickets.append(sr.submit(level(n), policy="latest" if step == "latest" else "block"))
            if step == "cancel":
                tickets[n // 2].cancel()
    done = [n for n, ticket in enumerate(tickets) if not ticket.cancelled()]
    assert session.order == done
    for n in done:
        assert (tickets[n].result(0) == n).all()
    assert all(ticket.done() for ticket in tickets)


def test_frames_begin_in_order_even_if_a_thread_is_slow_to_begin_one() -> None:
    """Two threads work on a GPU's frames: the second must not overtake the first on the way into the engine."""
    order: list[int] = []

    class Slow(Late):
        def submit(self, batch: Any) -> Any:
            if batch.flat[0] % 2 == 0:
                time.sleep(0.01)
            order.append(int(batch.flat[0]))
            return super().submit(batch)

    with late(Slow(2)) as sr:
        for n in range(12):
            sr.submit(level(n))
    assert order == list(range(12))


@pytest.mark.parametrize("policy", ["newest", "", None, 3, ["block"]])
def test_other_policies_are_refused(policy: Any) -> None:
    with resolver() as sr, pytest.raises(InputError, match="policy must be 'block' or 'latest'"):
        sr.submit(level(0), policy=policy)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "4", [2], float("nan")])
def test_other_queue_sizes_are_refused(size: Any) -> None:
    with pytest.raises(InputError, match="queue_size must be None or an integer of at least 1"):
        SuperResolver(Nearest(), CONFIG, open_float_session=Nearest, queue_size=size)
    with pytest.raises(InputError, match="queue_size must be"):
        wdsr_edge.load("wdsr-b-1x32-x2", backend="onnxruntime", queue_size=size)


def test_load_takes_a_queue_size() -> None:
    with wdsr_edge.load("wdsr-b-1x32-x2", backend="onnxruntime", queue_size=np.int64(7)) as sr:
        assert sr.submit(level(0)).result(20).shape == (4, 4, 3)


# Tickets


def test_cancel_is_for_what_was_not_begun_and_makes_room() -> None:
    with gated(1) as (sr, gate):
        first = sr.submit(level(1))
        blocked = in_thread(lambda: sr.submit(level(2)))
        assert waits(blocked)
        assert (first.done(), first.cancel(), first.cancelled(), first.done()) == (False, True, True, True)
        second = blocked.result(10)
        with pytest.raises(DroppedError, match="cancelled before it was begun"):
            first.result()
        with pytest.raises(concurrent.futures.CancelledError):
            first.result()
        with pytest.raises(WdsrError):
            first.exception()
        gate.let_on()
        assert (second.result(10) == 2).all()
        assert (second.cancel(), second.cancelled(), second.exception()) == (False, False, None)
        assert gate.begun == [0, 2]


def test_what_is_begun_cannot_be_cancelled() -> None:
    with gated() as (sr, gate):
        ticket = sr.submit(level(1))
        gate.let_on(1)
        gate.started.acquire(timeout=10)
        assert not ticket.cancel()
        gate.let_on()
        assert (ticket.result(10) == 1).all()


def test_callbacks_get_the_ticket_whatever_becomes_of_it() -> None:
    told: list[Ticket] = []
    with gated(2) as (sr, gate):
        done, cancelled = sr.submit(level(1)), sr.submit(level(2))
        for ticket in (done, cancelled):
            ticket.add_done_callback(told.append)
        cancelled.cancel()
        assert told == [cancelled]
        gate.let_on()
        done.result(10)
    assert told == [cancelled, done]
    done.add_done_callback(told.append)
    assert told == [cancelled, done, done]


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_fails_does_not_stop_the_frames_to_come(error: BaseException) -> None:
    def fail(_: Ticket) -> None:
        raise error

    with gated() as (sr, gate):
        first, second = sr.submit(level(1)), sr.submit(level(2))
        first.add_done_callback(fail)
        gate.let_on()
        assert (second.result(10) == 2).all()
        assert (first.result(10) == 1).all()


def test_a_callback_may_submit_and_close() -> None:
    """With a full queue, where the worker's own thread would wait for itself."""
    more: list[Ticket] = []
    with gated(1) as (sr, gate):
        first, second = sr.submit(level(1)), None
        first.add_done_callback(lambda _: more.append(sr.submit(level(3))))
        blocked = in_thread(lambda: sr.submit(level(2)))
        gate.let_on(2)
        second = blocked.result(10)
        gate.let_on(2)
        second.result(10)
        assert (more[0].result(10) == 3).all()
        last = sr.submit(level(4))
        last.add_done_callback(lambda _: sr.close())
        tail = sr.submit(level(5))
        gate.let_on()
        assert (tail.result(10) == 5).all()
        in_thread(sr.close).result(10)
        assert gate.closed == 1


def test_tickets_and_frames_are_freed_without_a_collection() -> None:
    """A camera makes a ticket for each frame: none may wait for the garbage collector."""
    gc.disable()
    try:
        with resolver() as sr:
            ticket = sr.submit(level(1))
            ticket.add_done_callback(lambda ticket: ticket.result())
            ticket.result(10)
            kept = weakref.ref(ticket)
            sr.submit(level(2)).result(10)
            del ticket
            assert kept() is None
    finally:
        gc.enable()


def test_a_resolver_that_is_dropped_ends_its_threads() -> None:
    before = set(threading.enumerate())
    sr = resolver()
    sr.submit(level(1)).result(10)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 1
    kept = weakref.ref(sr)
    del sr
    gc.collect()
    assert kept() is None
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()


# In asyncio


def test_await_gives_the_result_and_does_not_block_the_loop() -> None:
    async def main(sr: SuperResolver, gate: Gate) -> None:
        ticket = sr.submit(level(1))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            for _ in range(5):
                await asyncio.sleep(0)
                ticks += 1
            gate.let_on()

        big, _ = await asyncio.gather(ticket, tick())
        assert (big == 1).all()
        assert ticks == 5
        assert (await ticket == 1).all()

    with gated() as (sr, gate):
        asyncio.run(main(sr, gate))


def test_await_works_in_several_loops_at_once() -> None:
    async def wait(ticket: Ticket) -> Any:
        return await asyncio.wait_for(ticket, 10)

    with gated() as (sr, gate):
        ticket = sr.submit(level(1))
        loops = [in_thread(lambda: asyncio.run(wait(ticket))) for _ in range(3)]
        assert waits(loops[0])
        gate.let_on()
        assert all((loop.result(10) == 1).all() for loop in loops)


def test_await_raises_what_result_raises() -> None:
    async def main(sr: SuperResolver) -> None:
        waiting = sr.submit(level(1))
        dropped = asyncio.ensure_future(wait(waiting))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(DroppedError):
            await dropped

    async def wait(ticket: Ticket) -> Any:
        return await ticket

    with gated() as (sr, _):
        asyncio.run(main(sr))

    def fail() -> None:
        raise BackendError("out of memory")

    with resolver(Nearest(work=fail)) as sr:
        ticket = sr.submit(level(0))
        with pytest.raises(BackendError, match="out of memory"):
            asyncio.run(wait(ticket))


def test_a_task_that_is_cancelled_cancels_its_frame() -> None:
    async def main(sr: SuperResolver) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sr.submit(level(1)), 0.02)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(first, 0.02)

    with gated() as (sr, gate):
        first = sr.submit(level(2))
        gate.let_on(1)
        gate.started.acquire(timeout=10)
        asyncio.run(main(sr))
        gate.let_on()
        assert (first.result(10) == 2).all()  # it was begun
    assert gate.begun == [0, 2]


def test_a_loop_that_is_gone_is_not_told() -> None:
    async def main(ticket: Ticket) -> None:
        waiter = ticket.__await__()
        next(waiter)
        waiter.close()

    with gated() as (sr, gate):
        ticket = sr.submit(level(1))
        asyncio.run(main(ticket))
        gate.let_on()
        assert (ticket.result(10) == 1).all()


# Closing


def test_close_with_cancel_drops_what_was_not_begun() -> None:
    with gated() as (sr, gate):
        tickets = [sr.submit(level(n)) for n in (1, 2)]
        closing = in_thread(lambda: sr.close(cancel=True))
        for ticket in tickets:
            with pytest.raises(DroppedError, match="closed before it was begun"):
                ticket.result(10)
        assert waits(closing)  # frame 0 is under way
        gate.let_on()
        closing.result(10)
        assert (gate.begun, gate.closed) == ([0], 1)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_leaving_the_block_by_an_exception_drops_what_was_not_begun(error: type[BaseException]) -> None:
    gate = Gate()
    tickets: list[Ticket] = []

    def block() -> None:
        with SuperResolver(gate, CONFIG, open_float_session=Nearest) as sr:
            tickets.extend(sr.submit(level(n)) for n in range(3))
            gate.started.acquire(timeout=10)
            tickets[-1].add_done_callback(lambda _: gate.let_on())
            raise error

    with pytest.raises(error):
        block()
    assert [ticket.cancelled() for ticket in tickets] == [False, True, True]
    assert (gate.begun, gate.closed) == ([0], 1)


def test_close_wakes_those_who_wait_to_submit() -> None:
    with gated(1) as (sr, gate):
        sr.submit(level(1))
        blocked = [in_thread(lambda: sr.submit(level(2))) for _ in range(3)]
        assert all(map(waits, blocked))
        closing = in_thread(sr.close)
        for one in blocked:
            error = one.exception(10)
            assert isinstance(error, BackendError)
            assert "is closed" in str(error)
        gate.let_on()
        closing.result(10)
    assert gate.begun == [0, 1]


def test_a_second_close_waits_for_the_first_and_may_cancel() -> None:
    with gated() as (sr, gate):
        ticket = sr.submit(level(1))
        closing = in_thread(sr.close)
        assert waits(closing)
        second = in_thread(lambda: sr.close(cancel=True))
        with pytest.raises(DroppedError):
            ticket.result(10)
        assert waits(second)
        gate.let_on()
        closing.result(10)
        second.result(10)
        assert gate.closed == 1


# Ctrl-C, in processes of their own

CTRL_C = """
import os, signal, sys, threading, time
import numpy as np
from wdsr_edge import SuperResolver
from wdsr_edge.config import ModelConfig

class Slow:
    closed = 0
    def run(self, batch):
        time.sleep(0.05)
        return batch.repeat(2, 1).repeat(2, 2)
    def close(self):
        self.closed += 1

engine, frame = Slow(), np.zeros((2, 2, 3), np.uint8)
sr = SuperResolver(engine, ModelConfig.from_name("wdsr-b-1x8-x2"), open_float_session=Slow, queue_size=50)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
started = time.monotonic()
try:
"""
ENDS = """
except KeyboardInterrupt:
    took = time.monotonic() - started
    sr.close(cancel=True)
    print(f"interrupted {took < 1.5} {engine.closed}")
"""


def interrupted(body: str) -> str:
    done = subprocess.run([sys.executable, "-c", CTRL_C + body + ENDS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize(
    "body",
    [
        "    with sr:\n        for _ in range(200): sr.submit(frame)",
        "    while True: sr.submit(frame)",
        "    for _ in range(50): sr.submit(frame)\n    sr.close()",
        "    with sr:\n        for _ in range(50): ticket = sr.submit(frame)\n        ticket.result()",
    ],
    ids=["blocked in a with block", "blocked", "in close", "in result"],
)
def test_ctrl_c_is_not_kept_waiting_by_the_queue(body: str) -> None:
    """Fifty frames wait, 2.5 s of work: nothing of it is begun after Ctrl-C."""
    assert interrupted(body) == "interrupted True 1"
