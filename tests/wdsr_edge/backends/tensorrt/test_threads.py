"""A session on a simulated GPU in several threads, and garbage that is collected amid its work.

Tests that take ``code`` are what test_planted_bugs.py finds bugs with.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.simulated_cuda import Device
from tests.wdsr_edge.backends.tensorrt.schedules import (
    SIZES,
    Code,
    Elsewhere,
    elsewhere,
    empty,
    engine,
    expected,
    frame,
    opened,
)
from wdsr_edge import BackendError

pytestmark = pytest.mark.usefixtures("quick_collection")


@contextmanager
def eager_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_threads_share_a_session(onnx: Path, code: Code) -> None:
    """No thread gets another's frame."""
    device = Device(Random(0).randrange, devices=2)
    session = opened(device, onnx, code=code, gpu=1)

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(20):
            batch = frame(random, *random.choice(SIZES[:2]))
            assert (session.run(batch) == expected(onnx, batch)).all()

    with eager_threads():
        threads = [Elsewhere(work, seed) for seed in range(4)]
        for thread in threads:
            thread.wait()
    session.close()
    empty(device)


@pytest.mark.parametrize("seed", range(8))
def test_close_and_submit_race(onnx: Path, code: Code, seed: int) -> None:
    """What was taken before the end comes back right, and what comes after is refused in one line."""
    device, taken = Device(Random(seed).randrange), threading.Semaphore(0)
    session = opened(device, onnx, code=code)

    def work(seed: int) -> str:
        random = Random(seed)
        for _ in range(1000):
            batch = frame(random, *random.choice(SIZES[:2]))
            try:
                ticket = session.submit(batch)
            except BackendError as error:
                return str(error)
            taken.release()
            if random.random() < 0.5:
                time.sleep(0)
            assert (ticket.result() == expected(onnx, batch)).all()
        return "it was not closed"

    with eager_threads():
        threads = [Elsewhere(work, 10 * seed + n) for n in range(2)]
        for _ in range(1 + 3 * seed):
            taken.acquire()
        elsewhere(session.close)
        assert {thread.wait() for thread in threads} == {"this session is closed: load the model again"}
    empty(device)


def test_close_waits_for_a_submit_that_is_under_way(onnx: Path, code: Code) -> None:
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    session.run(batch)
    starts, closes = threading.Event(), threading.Event()

    def start() -> None:
        starts.set()
        closes.wait(0.1)  # which it does not, but for a bug

    def close() -> None:
        session.close()
        closes.set()

    device.before["cudaGraphLaunch"] = start
    submitted = Elsewhere(session.submit, batch)
    assert starts.wait(20)
    closed = Elsewhere(close)
    ticket = submitted.wait()
    closed.wait()
    assert (ticket.result() == expected(onnx, batch)).all()
    empty(device)


def test_threads_share_a_ticket(onnx: Path, code: Code) -> None:
    """A second thread that asks while the first waits gets the same, even if the slot is used again meanwhile."""
    device, random, again = Device(Random(0).randrange), Random(0), threading.Event()
    session = opened(device, onnx, code=code, slots=1)
    batches = [frame(random, 4, 5) for _ in range(2)]
    first = session.submit(batches[0])
    waiting = [threading.Event(), threading.Event()]

    def wait() -> None:
        if threading.current_thread() is threading.main_thread():
            return
        if not waiting[0].is_set():
            waiting[0].set()
            waiting[1].wait(0.1)  # which never comes, unless both are in at once
        else:
            waiting[1].set()
            again.wait(20)

    device.before["cudaEventSynchronize"] = wait
    threads = [Elsewhere(first.result) for _ in range(2)]
    assert waiting[0].wait(20)
    waiting[1].wait(0.1)
    second = session.submit(batches[1])
    assert (second.result() == expected(onnx, batches[1])).all()
    again.set()
    for thread in threads:
        assert (thread.wait() == expected(onnx, batches[0])).all()
    assert (first.result() == expected(onnx, batches[0])).all()
    del device.before["cudaEventSynchronize"]
    session.close()
    empty(device)


def test_many_threads_ask_one_ticket(onnx: Path, code: Code) -> None:
    device, random = Device(Random(0).randrange), Random(0)
    session = opened(device, onnx, code=code, slots=1)
    with eager_threads():
        for _ in range(20):
            batch = frame(random, 4, 5)
            ticket = session.submit(batch)
            threads = [Elsewhere(ticket.result) for _ in range(3)]
            later = session.submit(batch ^ 255)
            results = [thread.wait() for thread in threads]
            assert all((found == expected(onnx, batch)).all() for found in results)
            assert (later.result() == expected(onnx, batch ^ 255)).all()
    session.close()
    del ticket, later, threads
    empty(device)


class Building:
    """Plans, of which that for the second size takes until it is told to go on."""

    def __init__(self, onnx: Path, code: Code) -> None:
        self.plan = code.session.Plan(engine(onnx))
        self.begun, self.done = threading.Event(), threading.Event()

    def __call__(self, shape: tuple[int, ...]) -> Any:
        if shape[1:3] == SIZES[1]:
            self.begun.set()
            assert self.done.wait(20)
        return self.plan


def test_other_shapes_go_on_while_one_is_built(onnx: Path, code: Code) -> None:
    device, random, building = Device(Random(0).randrange), Random(0), Building(onnx, code)
    session = opened(device, onnx, code=code, plan_for=building)
    batches = [frame(random, *size) for size in SIZES[:2]]
    session.run(batches[0])
    late = Elsewhere(session.run, batches[1])
    try:
        assert building.begun.wait(20)
        for _ in range(3):
            assert (elsewhere(session.run, batches[0], seconds=2) == expected(onnx, batches[0])).all()
    finally:
        building.done.set()
    assert (late.wait() == expected(onnx, batches[1])).all()
    session.close()
    empty(device)


def test_a_session_can_be_closed_during_a_build(onnx: Path, code: Code) -> None:
    device, random, building = Device(Random(0).randrange), Random(0), Building(onnx, code)
    session = opened(device, onnx, code=code, plan_for=building)
    ticket = session.submit(batch := frame(random, *SIZES[0]))
    late = Elsewhere(session.run, frame(random, *SIZES[1]))
    try:
        assert building.begun.wait(20)
        elsewhere(session.close, seconds=2)
        device.check_empty()
    finally:
        building.done.set()
    with pytest.raises(BackendError, match=r"^this session is closed: load the model again$"):
        late.wait()
    assert (ticket.result() == expected(onnx, batch)).all()
    empty(device)


def test_two_threads_ask_for_the_same_new_shape(onnx: Path, code: Code) -> None:
    device, random, building = Device(Random(0).randrange), Random(0), Building(onnx, code)
    session = opened(device, onnx, code=code, plan_for=building)
    batches = [frame(random, *SIZES[1]) for _ in range(2)]
    threads = [Elsewhere(session.run, batch) for batch in batches]
    assert building.begun.wait(20)
    time.sleep(0.02)
    building.done.set()
    for thread, batch in zip(threads, batches, strict=True):
        assert (thread.wait() == expected(onnx, batch)).all()
    assert device.calls.count("cudaStreamCreateWithFlags") == 2, "one shape, two slots"
    session.close()
    empty(device)


@contextmanager
def collection_when_told() -> Iterator[None]:
    """The collector counts as enabled, but only the simulation runs it, in each capture that allows it."""
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def leave_garbage(device: Device, onnx: Path, code: Code, gpu: int = 0, size: tuple[int, int] = SIZES[0]) -> None:
    """A session with memory that only the collector finds."""
    session: Any = opened(device, onnx, code=code, gpu=gpu)
    session.run(frame(Random(0), *size))
    session.itself = session


def test_garbage_is_not_collected_in_a_capture(onnx: Path, code: Code) -> None:
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    with collection_when_told():
        leave_garbage(device, onnx, code)
        streams = len(device.streams)
        assert (session.run(batch) == expected(onnx, batch)).all()
        assert len(device.streams) == streams + 2, "the garbage is still there"
        assert gc.isenabled()
    assert not device.spoiled
    assert device.calls.count("cudaGraphInstantiate") == 4
    session.close()
    empty(device)


def test_a_collector_that_is_off_stays_off(onnx: Path, code: Code) -> None:
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    gc.disable()
    try:
        session.run(batch)
        assert not gc.isenabled()
    finally:
        gc.enable()
    session.close()
    empty(device)


def test_two_captures_at_once_keep_the_collector_off(onnx: Path, code: Code) -> None:
    """The first that ends must not let garbage be collected in the other."""
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    sessions = [opened(device, onnx, code=code, slots=1) for _ in range(2)]
    inside, out = [threading.Event(), threading.Event()], threading.Event()

    def begin() -> None:
        if not inside[0].is_set():
            inside[0].set()
            inside[1].wait(0.2)  # which never comes, if captures wait for each other
        elif not inside[1].is_set():
            inside[1].set()
            out.wait(20)

    with collection_when_told():
        leave_garbage(device, onnx, code)
        device.before["cudaStreamBeginCapture"] = begin
        first = Elsewhere(sessions[0].run, batch)
        assert inside[0].wait(20)
        second = Elsewhere(sessions[1].run, batch)
        assert (first.wait() == expected(onnx, batch)).all()
        out.set()
        assert (second.wait() == expected(onnx, batch)).all()
    assert not device.spoiled
    for session in sessions:
        session.close()
    del session
    sessions.clear()
    empty(device)


def test_garbage_on_another_gpu_does_not_change_that_of_the_thread(onnx: Path, code: Code) -> None:
    device, random = Device(Random(0).randrange, devices=2), Random(0)
    session = opened(device, onnx, code=code, graphs=False)

    def collect() -> None:
        device.before.clear()
        gc.collect()

    with collection_when_told():
        leave_garbage(device, onnx, code, gpu=1)
        device.before["cudaMalloc"] = collect
        batch = frame(random, 4, 5)
        assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)
    assert {block.gpu for block in device.graveyard} == {0, 1}


def test_garbage_is_collected_while_its_ticket_waits(onnx: Path) -> None:
    """A session that is dropped is not closed inside a call of its ticket, which would wait for itself."""
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    session: Any = opened(device, onnx)
    session.itself = session
    ticket = session.submit(batch)
    with collection_when_told():
        del session
        device.before["cudaEventElapsedTime"] = gc.collect
        assert (elsewhere(ticket.result) == expected(onnx, batch)).all()
    device.before.clear()
    empty(device)


def test_one_engine_is_built_at_a_time(onnx: Path, code: Code) -> None:
    building, most = [0], [0]

    def plan_for(shape: tuple[int, ...]) -> Any:
        building[0] += 1
        most[0] = max(most[0], building[0])
        time.sleep(0.05)
        building[0] -= 1
        return code.session.Plan(engine(onnx))

    device = Device(Random(0).randrange)
    session = opened(device, onnx, code=code, plan_for=plan_for)
    threads = [Elsewhere(session.run, frame(Random(0), *size)) for size in SIZES[:3]]
    for thread in threads:
        thread.wait()
    assert most == [1]
    session.close()
    empty(device)


def test_the_collector_is_off_before_a_capture_begins(onnx: Path, code: Code) -> None:
    device, seen = Device(lambda n: 0), []
    session = opened(device, onnx, code=code)
    device.before["cudaStreamBeginCapture"] = lambda: seen.append(gc.isenabled())
    session.run(frame(Random(0), *SIZES[0]))
    assert seen == [False, False]
    session.close()
