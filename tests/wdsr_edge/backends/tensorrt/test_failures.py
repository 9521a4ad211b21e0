"""The session on a simulated GPU when something fails: what is told, what goes on, what is left.

Tests that take ``code`` are what test_planted_bugs.py finds bugs with.
"""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT
from tests.wdsr_edge.backends.tensorrt.schedules import Code, elsewhere, empty, engine, expected, frame, opened
from wdsr_edge import BackendError

pytestmark = pytest.mark.usefixtures("quick_collection")


def test_a_capture_that_is_interrupted_is_ended(onnx: Path, code: Code) -> None:
    device = Device(lambda n: 0)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    session, batch = opened(device, onnx, code=code, trt=trt), frame(Random(0), 4, 5)

    def interrupt() -> None:
        if device.captures:
            trt.before.clear()
            raise KeyboardInterrupt

    trt.before["execute_async_v3"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.run(batch)
    assert not device.captures
    assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_a_bug_in_a_capture_is_not_hidden(onnx: Path, code: Code) -> None:
    def fail() -> None:
        device.before.clear()
        raise TypeError("a bug")

    device = Device(lambda n: 0)
    session = opened(device, onnx, code=code)
    device.before["cudaGraphInstantiate"] = fail
    with pytest.raises(TypeError, match="a bug"):
        session.run(frame(Random(0), 4, 5))
    session.close()


def test_a_submit_that_is_interrupted_does_no_harm(onnx: Path, code: Code) -> None:
    def interrupt() -> None:
        device.before.clear()
        raise KeyboardInterrupt

    device, batch = Device(lambda n: 0), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    session.run(batch)
    device.before["cudaGraphLaunch"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.submit(batch)
    for _ in range(3):
        assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_a_slot_without_a_ticket_is_waited_for_when_it_closes(onnx: Path, code: Code) -> None:
    device, batch = Device(lambda n: 0), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    session.run(batch)
    device.fail["cudaEventRecord"] = 3
    with pytest.raises(BackendError, match="cudaEventRecord failed"):
        session.submit(batch)
    session.close()
    empty(device)


def test_a_ticket_that_failed_keeps_no_slot(onnx: Path, code: Code) -> None:
    device, batch = Device(lambda n: 0), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    ticket: Any = session.submit(batch)
    slot = weakref.ref(ticket._slot)
    device.fail["cudaEventSynchronize"] = 1
    with pytest.raises(BackendError, match="cudaEventSynchronize failed"):
        ticket.result()
    session.close()
    del session
    gc.collect()
    assert slot() is None
    with pytest.raises(BackendError, match="cudaEventSynchronize failed"):
        ticket.result()


def test_a_session_that_could_not_be_made_ends_quietly(onnx: Path, code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    device = Device(lambda n: 0)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    trt.Runtime = lambda log: 1 / 0
    with pytest.raises(ZeroDivisionError):
        opened(device, onnx, code=code, trt=trt)
    gc.collect()
    assert not said


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("deserialize_cuda_engine", r"cannot be loaded \(it is for another GPU or version\): build it again"),
        ("create_execution_context", r"no execution context \(usually the memory is full\)"),
        ("execute_async_v3", r"could not be started \(TensorRT did not say why\)"),
    ],
)
def test_what_was_said_of_something_else_does_not_count(onnx: Path, code: Code, method: str, words: str) -> None:
    device = Device(lambda n: 0)
    trt: Any = SimulatedTensorRT("11.4.0", device, refuse=method)
    session = opened(device, onnx, code=code, trt=trt)
    log = session._engines._log
    log.listen()
    log.log(trt.ILogger.ERROR, "OutOfMemory, long ago")
    trt._tell = lambda what: None
    elsewhere(log.log, trt.ILogger.ERROR, "OutOfMemory in another thread")
    with pytest.raises(BackendError, match=words):
        session.run(frame(Random(0), 4, 5))
    session.close()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (("OutOfMemory (Requested size)", "Error Code 4: Engine deserialization failed."), "OutOfMemory"),
        (("Cuda Runtime (an illegal memory access was encountered)",), "BackendError"),
        (("Version tag does not match",), "NotLoaded"),
    ],
)
def test_why_an_engine_does_not_load_decides_what_follows(
    onnx: Path, code: Code, said: tuple[str, ...], kind: str
) -> None:
    device = Device(lambda n: 0)
    trt: Any = SimulatedTensorRT("11.4.0", device, refuse="deserialize_cuda_engine")
    session = opened(device, onnx, code=code, trt=trt)
    trt._tell = lambda what: [session._engines._log.log(trt.ILogger.ERROR, text) for text in said]
    with pytest.raises(BackendError, match="cannot be loaded") as caught:
        session.run(frame(Random(0), 4, 5))
    assert type(caught.value).__name__ == kind
    session.close()


def test_a_run_that_finds_no_memory_is_not_the_end(onnx: Path, code: Code) -> None:
    device, batch = Device(lambda n: 0), frame(Random(0), 4, 5)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    session = opened(device, onnx, code=code, trt=trt, graphs=False)
    session.run(batch)
    trt._tell = lambda what: session._engines._log.log(trt.ILogger.ERROR, "Cuda Runtime (out of memory)")
    trt.refuse = "execute_async_v3"
    with pytest.raises(BackendError, match=r"could not be started \(Cuda Runtime \(out of memory\)\): load"):
        session.submit(batch)
    trt.refuse = ""
    assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_a_close_without_memory_for_a_result_frees_all_the_same(onnx: Path, code: Code) -> None:
    def full() -> None:
        raise MemoryError

    device, batch = Device(lambda n: 0), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    tickets = [session.submit(batch) for _ in range(2)]
    device.before["cudaEventElapsedTime"] = full
    session.close()
    device.before.clear()
    for ticket in tickets:
        with pytest.raises(BackendError, match="the memory is full: the frame is lost"):
            ticket.result()
    tickets.clear()
    del ticket
    empty(device)


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMemcpyAsync", "cudaEventCreateWithFlags"])
def test_a_start_that_is_interrupted_leaves_nothing(onnx: Path, code: Code, function: str) -> None:
    def interrupt() -> None:
        device.before.clear()
        raise KeyboardInterrupt

    device, batch = Device(lambda n: 0), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    device.before[function] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.run(batch)
    gc.collect()
    assert not device.in_use()
    assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_an_engine_with_another_rank_takes_no_frame(onnx: Path, code: Code) -> None:
    device = Device(lambda n: 0)
    session = opened(device, onnx, code=code, engine=engine(onnx, ((4, 5, 3),) * 3))
    with pytest.raises(BackendError, match="the engine does not take"):
        session.run(frame(Random(0), 4, 5))
    session.close()
