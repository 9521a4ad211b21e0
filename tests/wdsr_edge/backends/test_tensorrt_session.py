"""The session on a simulated GPU: thousands of schedules, and every failure."""

from __future__ import annotations

import gc
import logging
import threading
import types
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.simulated_cuda import Device, Fault
from tests.simulated_tensorrt import SimulatedTensorRT
from tests.wdsr_edge.backends.schedules import SIZES, empty, engine, expected, frame, opened, schedule
from wdsr_edge import BackendError
from wdsr_edge.backends._cuda import Cuda

pytestmark = pytest.mark.usefixtures("quick_collection")


@pytest.mark.parametrize("part", range(10))
def test_every_frame_comes_back_right_whatever_the_order(onnx: Path, part: int) -> None:
    for seed in range(200 * part, 200 * (part + 1)):
        schedule(onnx, seed)


def test_a_frame_is_worked_on_while_the_next_is_taken(onnx: Path) -> None:
    """Nothing is waited for until a result is asked for or the slots are full."""
    device = Device(lambda n: 0)
    session, random = opened(device, onnx, slots=2), Random(0)
    session.run(frame(random, 4, 5))
    device.calls.clear()
    tickets = [session.submit(frame(random, 4, 5)) for _ in range(2)]
    assert not [call for call in device.calls if "Synchronize" in call]
    assert sum(map(len, device.streams.values())) == 2 * 7
    session.submit(frame(random, 4, 5))
    assert device.calls.count("cudaEventSynchronize") == 1
    assert [ticket.result().shape for ticket in tickets] == [(1, 8, 10, 3)] * 2
    session.close()


def test_memory_is_set_aside_once_for_a_shape(onnx: Path) -> None:
    device, random = Device(lambda n: n - 1), Random(0)
    session = opened(device, onnx)
    session.run(frame(random, 4, 5))
    before = device.calls.count("cudaMalloc"), device.calls.count("cudaHostAlloc")
    assert before == (4, 4)
    for _ in range(5):
        session.run(frame(random, 4, 5))
    assert (device.calls.count("cudaMalloc"), device.calls.count("cudaHostAlloc")) == before
    for size in SIZES:
        session.run(frame(random, *size))
    assert len(device.device) == 4 * 4, "no more than four shapes keep theirs"
    session.close()


def test_shared_memory_is_not_copied(onnx: Path) -> None:
    device = Device(lambda n: n - 1, integrated=True)
    session = opened(device, onnx)
    batch = frame(Random(0), 4, 5)
    assert (session.run(batch) == expected(onnx, batch)).all()
    ticket = session.submit(batch)
    ticket.result()
    assert ticket.timing is not None
    assert (ticket.timing.upload_ms, ticket.timing.download_ms) == (0, 0)
    assert "cudaMemcpyAsync" not in device.calls
    assert "cudaMalloc" not in device.calls
    session.close()


def test_an_engine_for_another_type_is_refused(onnx: Path) -> None:
    device = Device(lambda n: n - 1)
    session = opened(device, onnx)
    with pytest.raises(BackendError, match="the engine takes or makes no float32: build it from the graph for float32"):
        session.run(np.zeros((1, 4, 5, 3), np.float32))
    session.close()
    empty(device)


def test_an_interrupted_wait_can_be_taken_up_again(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(cuda: Cuda) -> None:
        raise KeyboardInterrupt

    session, batch = opened(Device(lambda n: 0), onnx), frame(Random(0), 4, 5)
    ticket = session.submit(batch)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Cuda, "select", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ticket.result()
    assert (ticket.result() == expected(onnx, batch)).all()
    session.close()


def test_graphs_are_launched_and_can_be_left_out(onnx: Path) -> None:
    for graphs in (True, False):
        device = Device(lambda n: n - 1)
        session = opened(device, onnx, graphs=graphs)
        session.run(frame(Random(0), 4, 5))
        assert ("cudaGraphLaunch" in device.calls) == graphs
        session.close()


@pytest.mark.parametrize("function", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_graph_that_fails_is_told_of_and_done_without(
    onnx: Path, function: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(Random(0).randrange, fail={function: 1})
    session, batch = opened(device, onnx), frame(Random(0), 4, 5)
    with caplog.at_level(logging.WARNING, "wdsr_edge"):
        try:
            assert (session.run(batch) == expected(onnx, batch)).all()
        except Fault:
            assert function == "cudaStreamEndCapture", "the stand-in lets no capture be ended that failed to end"
    assert f"no CUDA graph ({function} failed with cudaErrorIllegalAddress (700)" in caplog.text


def test_rtx_tells_what_cannot_be_captured(onnx: Path, caplog: pytest.LogCaptureFixture) -> None:
    device = Device(lambda n: n - 1)
    trt = SimulatedTensorRT("rtx-1.7.1", device, capturable=False)
    session, batch = opened(device, onnx, "rtx-1.7.1", trt=trt), frame(Random(0), 4, 5)
    assert (session.run(batch) == expected(onnx, batch)).all()
    assert "cannot be captured in a CUDA graph" in caplog.text
    session.close()
    empty(device)


def test_the_profile_that_takes_the_shape_is_chosen(onnx: Path) -> None:
    device = Device(lambda n: n - 1)
    profiles = [((1, 4, 5, 3),) * 3, ((1, 5, 4, 3),) * 3]
    session = opened(device, onnx, engine=engine(onnx, *profiles))
    for size in ((4, 5), (5, 4)):
        batch = frame(Random(0), *size)
        assert (session.run(batch) == expected(onnx, batch)).all()
    with pytest.raises(BackendError, match=r"the engine does not take \(1, 6, 6, 3\): compile one that does"):
        session.run(frame(Random(0), 6, 6))
    session.close()
    empty(device)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("deserialize_cuda_engine", "cannot be loaded"),
        ("create_execution_context", "no execution context"),
        ("set_optimization_profile_async", "refused its profile 0"),
        ("set_input_shape", "refused"),
        ("set_tensor_address", "refused an address for lr"),
        ("execute_async_v3", "could not be started"),
    ],
)
def test_what_tensorrt_refuses_is_an_error_and_leaks_nothing(onnx: Path, method: str, words: str) -> None:
    device = Device(Random(0).randrange)
    session = opened(device, onnx, trt=SimulatedTensorRT("10.3.0", device, refuse=method))
    with pytest.raises(BackendError, match=words) as caught:
        session.run(frame(Random(0), 4, 5))
    assert "\n" not in str(caught.value)
    session.close()
    del session, caught
    empty(device)


CALLS = (
    *("cudaSetDevice", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaMalloc", "cudaHostAlloc"),
    *("cudaHostGetDevicePointer", "cudaMemcpyAsync", "cudaStreamSynchronize", "cudaEventRecord", "cudaGraphLaunch"),
    *("cudaEventSynchronize", "cudaEventElapsedTime"),
)


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("function", CALLS)
def test_whichever_call_fails_it_is_one_line_and_nothing_leaks(onnx: Path, function: str, nth: int) -> None:
    device = Device(Random(nth).randrange)
    session = opened(device, onnx, slots=2)
    device.fail[function] = nth
    random, tickets, errors = Random(0), [], []
    for size in (*SIZES[:2], *SIZES[:2]) * 2:
        batch = frame(random, *size)
        try:
            tickets.append((session.submit(batch), expected(onnx, batch)))
        except BackendError as error:
            errors.append(str(error))
    for ticket, wanted in tickets:
        try:
            assert (ticket.result() == wanted).all()
        except BackendError as error:
            errors.append(str(error))
    session.close()
    assert all("\n" not in error and "failed with cudaErrorIllegalAddress (700)" in error for error in errors)
    del session
    tickets.clear()
    empty(device)


def test_full_memory_says_what_to_do(onnx: Path) -> None:
    device = Device(lambda n: n - 1, memory=100)
    session = opened(device, onnx)
    with pytest.raises(
        BackendError, match=r"cudaMalloc failed with cudaErrorMemoryAllocation \(2\): the GPU's memory is"
    ):
        session.run(frame(Random(0), 4, 5))
    session.close()
    empty(device)


def test_after_a_failure_it_says_so(onnx: Path) -> None:
    device = Device(lambda n: n - 1)
    session, batch = opened(device, onnx), frame(Random(0), 4, 5)
    session.run(batch)
    device.fail["cudaGraphLaunch"] = 1
    with pytest.raises(BackendError, match="cudaGraphLaunch failed"):
        session.submit(batch)
    with pytest.raises(BackendError, match=r"the GPU failed before \(cudaGraphLaunch failed .*load the model again"):
        session.submit(batch)
    session.close()
    empty(device)


def test_a_closed_session_says_so_and_closes_again(onnx: Path) -> None:
    device = Device(lambda n: n - 1)
    session, batch = opened(device, onnx), frame(Random(0), 4, 5)
    ticket = session.submit(batch)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="this session is closed"):
        session.run(batch)
    assert (ticket.result() == expected(onnx, batch)).all()
    assert (ticket.result() == ticket.result()).all()


def test_a_session_that_is_dropped_frees_the_gpu(onnx: Path) -> None:
    device = Device(lambda n: 0)
    session, batch = opened(device, onnx), frame(Random(0), 4, 5)
    ticket = session.submit(batch)
    del session
    gc.collect()
    assert (ticket.result() == expected(onnx, batch)).all()
    del ticket
    empty(device)


@pytest.mark.parametrize("devices", [0, 1])
def test_a_gpu_that_is_not_there_is_one_line(devices: int) -> None:
    words = "no GPU is visible" if not devices else "there is no GPU 1: this machine has 1"
    with pytest.raises(BackendError, match=words):
        Cuda(1, Device(lambda n: 0, devices=devices))


def test_a_driver_that_is_not_there_is_one_line() -> None:
    class Missing:
        def cudaGetDeviceCount(self) -> None:
            raise RuntimeError("libcuda.so.1 is not there")

    with pytest.raises(
        BackendError, match=r"CUDA cannot be used \(libcuda.so.1 is not there\): install an NVIDIA driver"
    ):
        Cuda(0, Missing())


def test_what_a_gpu_is() -> None:
    cuda = Cuda(0, Device(lambda n: 0))
    assert (cuda.name, cuda.sm, cuda.integrated, cuda.free_memory()) == ("Simulated GPU", 87, False, 1 << 30)
    shared = Cuda(0, Device(lambda n: 0, integrated=True, memory=1))
    assert shared.integrated
    assert shared.free_memory() > 1 << 20, "what the system can make free"


def test_threads_share_asession_of(onnx: Path) -> None:
    """The stand-in itself takes one call at a time; what is tested is that no thread gets another's frame."""
    lock = threading.RLock()

    class Locked(Device):
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if not name.startswith("cuda") or not isinstance(found, types.FunctionType):
                return found

            def call(*arguments: Any) -> Any:
                with lock:
                    return found(*arguments)

            return call

    device = Locked(Random(0).randrange)
    session = opened(device, onnx)
    wrong: list[int] = []

    def work(seed: int) -> None:
        random = Random(seed)
        for _ in range(20):
            batch = frame(random, *SIZES[0])
            if not (session.run(batch) == expected(onnx, batch)).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.close()
    assert not wrong
