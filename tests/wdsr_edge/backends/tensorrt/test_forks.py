"""A forked child of a process with a session on a simulated GPU: it has no GPU, and leaves its parent's alone.

Tests that take ``code`` are what test_planted_bugs.py finds bugs with.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.simulated_cuda import Device
from tests.wdsr_edge.backends.tensorrt.schedules import Code, Elsewhere, empty, expected, frame, opened
from wdsr_edge import BackendError

pytestmark = [
    pytest.mark.usefixtures("quick_collection"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
]


def in_child(do: Callable[[], str]) -> str:
    """What ``do`` returns in a forked child."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there may be threads
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(3)
        try:
            said = do()
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said or "it said nothing"


FORKED = "a forked process cannot use the GPU: start it with multiprocessing's spawn"


def refused(*calls: Callable[[], object]) -> list[str]:
    """What calls raise."""
    errors = []
    for call in calls:
        try:
            call()
        except BackendError as error:
            errors.append(str(error))
    return errors


def test_a_forked_child_leaves_the_gpu_alone(onnx: Path, code: Code) -> None:
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    held = [opened(device, onnx, code=code)]
    tickets = [held[0].submit(batch) for _ in range(2)]
    tickets[0].result()
    touches = device.touches

    def child() -> str:
        errors = refused(
            lambda: held[0].submit(batch),
            lambda: held[0].run(batch),
            lambda: held[0].bare_ms(batch, 1),
            lambda: tickets[1].result(),
        )
        assert (tickets[0].result() == expected(onnx, batch)).all(), "what was there already"
        held[0].close()
        held[0].close()
        held.clear()
        tickets.clear()
        gc.collect()
        return "\n".join([*errors, str(device.touches - touches)])

    assert in_child(child).splitlines() == [FORKED] * 4 + ["0"]
    assert all((ticket.result() == expected(onnx, batch)).all() for ticket in tickets)
    assert (held[0].run(batch) == expected(onnx, batch)).all()
    held.pop().close()
    empty(device)


def test_a_forked_child_waits_for_no_thread_of_its_parent(onnx: Path, code: Code) -> None:
    """Locks that others hold at the fork are never given back in the child."""
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    ticket = session.submit(batch)
    waits, goes_on = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        goes_on.wait(20)

    def child() -> str:
        errors = refused(ticket.result, lambda: session.submit(batch))
        session.close()
        return "\n".join(errors)

    device.before["cudaEventSynchronize"] = wait
    threads = [Elsewhere(ticket.result)]
    assert waits.wait(20)
    threads.append(Elsewhere(session.close))
    time.sleep(0.02)
    try:
        assert in_child(child).splitlines() == [FORKED] * 2
    finally:
        goes_on.set()
    assert (threads[0].wait() == expected(onnx, batch)).all()
    threads[1].wait()
    empty(device)
