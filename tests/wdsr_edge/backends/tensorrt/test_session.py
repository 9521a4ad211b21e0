"""The session on a simulated GPU: frames in some order, their times, what is refused, how it ends.

Tests that take ``code`` are what test_planted_bugs.py finds bugs with.
"""

from __future__ import annotations

import gc
import logging
import weakref
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.cuda_names import Error
from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT, larger
from tests.wdsr_edge.backends.tensorrt.schedules import (
    SIZES,
    Code,
    elsewhere,
    empty,
    engine,
    expected,
    frame,
    opened,
    schedule,
)
from wdsr_edge import BackendError
from wdsr_edge.backends.tensorrt.cuda import Cuda

pytestmark = pytest.mark.usefixtures("quick_collection")


@pytest.mark.parametrize("part", range(10))
def test_every_frame_comes_back_right_whatever_the_order(onnx: Path, part: int) -> None:
    for seed in range(200 * part, 200 * (part + 1)):
        schedule(onnx, seed)


def test_a_frame_is_worked_on_while_the_next_is_taken(onnx: Path, code: Code) -> None:
    """Nothing is waited for until a result is asked for or the slots are full."""
    device = Device(lambda n: 0)
    session, random = opened(device, onnx, code=code, slots=2), Random(0)
    assert session.in_flight == 2
    session.run(frame(random, 4, 5))
    device.calls.clear()
    tickets = [session.submit(frame(random, 4, 5)) for _ in range(2)]
    assert not [call for call in device.calls if "Synchronize" in call]
    assert sum(len(stream.works) for stream in device.streams.values()) == 2 * 8
    session.submit(frame(random, 4, 5))
    assert device.calls.count("cudaEventSynchronize") == 1
    assert [ticket.result().shape for ticket in tickets] == [(1, 8, 10, 3)] * 2
    session.close()


@pytest.mark.parametrize(("integrated", "times"), [(False, (2, 5, 3)), (True, (0, 5, 0))])
def test_the_parts_of_a_frame_are_timed(onnx: Path, code: Code, integrated: bool, times: tuple[int, ...]) -> None:
    device = Device(lambda n: 0, integrated=integrated)
    session = opened(device, onnx, code=code)
    ticket = session.submit(frame(Random(0), 4, 5))
    assert ticket.timing is None
    ticket.result()
    assert ticket.timing is not None
    assert (ticket.timing.upload_ms, ticket.timing.compute_ms, ticket.timing.download_ms) == times
    session.close()


def test_the_engine_alone_is_timed_between_frames(onnx: Path, code: Code) -> None:
    device, random = Device(lambda n: 0), Random(0)
    session = opened(device, onnx, code=code, slots=1)
    batches = [frame(random, 4, 5) for _ in range(2)]
    ticket = session.submit(batches[0])
    before = [*device.calls]
    assert session.bare_ms(batches[0], 4) == 5
    assert (ticket.result() == expected(onnx, batches[0])).all()
    assert ticket.timing is not None
    assert ticket.timing.upload_ms == 2
    assert device.calls.count("cudaGraphLaunch") - before.count("cudaGraphLaunch") == 4
    assert device.calls.count("cudaMemcpyAsync") == before.count("cudaMemcpyAsync")
    assert (session.run(batches[1]) == expected(onnx, batches[1])).all()
    session.close()
    empty(device)


def test_shared_memory_is_not_copied(onnx: Path) -> None:
    device = Device(lambda n: n - 1, integrated=True)
    session = opened(device, onnx)
    batch = frame(Random(0), 4, 5)
    assert (session.run(batch) == expected(onnx, batch)).all()
    assert "cudaMemcpyAsync" not in device.calls
    assert device.calls.count("cudaMalloc") == 2, "what the contexts need"
    session.close()


def test_floats_in_planes(onnx: Path, code: Code) -> None:
    device = Device(lambda n: n - 1)
    session = opened(device, onnx, code=code, engine=engine(None, ((1, 3, 1, 1), (1, 3, 4, 4), (2, 3, 9, 9))))
    for shape in ((2, 3, 4, 5), (1, 3, 4, 5), (1, 3, 5, 4)):
        batch = np.random.default_rng(0).random(shape, np.float32)
        found = session.run(batch)
        assert found.dtype == np.float32
        assert (found == larger(batch, 2)).all()
    session.close()
    empty(device)


def test_work_in_other_threads_and_on_the_second_gpu(onnx: Path, code: Code) -> None:
    """A thread starts on the first GPU."""
    device, batch = Device(lambda n: 0, devices=2), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code, gpu=1)
    for _ in range(2):
        ticket = elsewhere(session.submit, batch)
        assert (elsewhere(ticket.result) == expected(onnx, batch)).all()
    assert elsewhere(session.bare_ms, batch, 2) == 5
    elsewhere(session.close)
    empty(device)
    assert device.owners == {1}


def test_resources_are_released_by_any_thread(code: Code) -> None:
    device = Device(lambda n: 0, devices=2)
    resources = code.cuda.Resources(code.cuda.Cuda(1, device))
    resources.stream(), resources.event(), resources.device(9), resources.pinned(9)
    elsewhere(resources.close)
    empty(device)


def test_an_interrupted_wait_can_be_taken_up_again(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(cuda: Cuda) -> None:
        raise KeyboardInterrupt

    device = Device(lambda n: 0)
    session, batch = opened(device, onnx), frame(Random(0), 4, 5)
    ticket = session.submit(batch)
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Cuda, "select", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ticket.result()
    assert (ticket.result() == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_an_interrupted_close_can_be_taken_up_again(onnx: Path, code: Code) -> None:
    def interrupt() -> None:
        del device.before["cudaEventSynchronize"]
        raise KeyboardInterrupt

    device = Device(lambda n: 0)
    session, batch = opened(device, onnx, code=code), frame(Random(0), 4, 5)
    session.run(batch)
    tickets = [session.submit(batch) for _ in range(2)]
    device.before["cudaEventSynchronize"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.close()
    with pytest.raises(BackendError, match="this session is closed"):
        session.submit(batch)
    session.close()
    assert all((ticket.result() == expected(onnx, batch)).all() for ticket in tickets)
    empty(device)


def test_an_interrupted_release_is_not_done_twice(onnx: Path, code: Code) -> None:
    def interrupt() -> None:
        device.before.clear()
        raise KeyboardInterrupt

    device = Device(lambda n: 0)
    session = opened(device, onnx, code=code)
    session.run(frame(Random(0), 4, 5))
    device.before["cudaEventDestroy"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.close()
    session.close()
    assert not device.faults
    assert not device.streams
    assert len(device.events) == 1, "that of the call that was interrupted"


def test_graphs_are_launched_and_can_be_left_out(onnx: Path, code: Code) -> None:
    for graphs in (True, False):
        device = Device(lambda n: n - 1)
        session = opened(device, onnx, code=code, graphs=graphs)
        session.run(frame(Random(0), 4, 5))
        assert ("cudaGraphLaunch" in device.calls) == graphs
        session.close()
        empty(device)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("cudaStreamBeginCapture", Error.cudaErrorStreamCaptureUnsupported),
        ("cudaStreamEndCapture", Error.cudaErrorStreamCaptureInvalidated),
        ("cudaGraphInstantiate", Error.cudaErrorMemoryAllocation),
    ],
)
def test_a_graph_that_fails_is_told_of_and_done_without(
    onnx: Path, function: str, error: Error, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(Random(0).randrange, fail={function: 1}, error=error)
    session, batch = opened(device, onnx), frame(Random(0), 4, 5)
    with caplog.at_level(logging.WARNING, "wdsr_edge"):
        assert (session.run(batch) == expected(onnx, batch)).all()
    assert f"no CUDA graph ({function} failed with {error.name} ({error.value})" in caplog.text
    session.close()
    empty(device)


def test_a_run_that_fails_in_a_capture_ends_it(onnx: Path, code: Code) -> None:
    device = Device(Random(0).randrange)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    session, batch = opened(device, onnx, code=code, trt=trt), frame(Random(0), 4, 5)
    device.before["cudaStreamBeginCapture"] = lambda: setattr(trt, "refuse", "execute_async_v3")
    device.before["cudaStreamEndCapture"] = lambda: setattr(trt, "refuse", "")
    assert (session.run(batch) == expected(onnx, batch)).all()
    assert "cudaGraphLaunch" not in device.calls
    session.close()
    empty(device)


def test_the_profile_that_takes_the_shape_is_chosen(onnx: Path, code: Code) -> None:
    device = Device(lambda n: n - 1)
    profiles = [((1, 4, 5, 3),) * 3, ((1, 5, 4, 3),) * 3]
    session = opened(device, onnx, code=code, engine=engine(onnx, *profiles))
    for size in ((4, 5), (5, 4)):
        batch = frame(Random(0), *size)
        assert (session.run(batch) == expected(onnx, batch)).all()
    for size in ((5, 5), (4, 4)):
        with pytest.raises(
            BackendError, match=rf"the engine does not take \(1, {size[0]}, {size[1]}, 3\): compile one"
        ):
            session.run(frame(Random(0), *size))
    session.close()
    empty(device)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("deserialize_cuda_engine", r"cannot be loaded \(deserialize_cuda_engine: refused\)"),
        ("create_execution_context", r"no execution context \(create_execution_context: refused\)"),
        ("set_optimization_profile_async", "refused its profile 0: set_optimization_profile_async: refused"),
        ("set_input_shape", r"refused \(1, 4, 5, 3\): set_input_shape: refused"),
        ("set_tensor_address", "refused an address for lr"),
        ("execute_async_v3", "could not be started"),
    ],
)
def test_what_tensorrt_refuses_is_an_error_and_leaks_nothing(onnx: Path, method: str, words: str) -> None:
    device = Device(Random(0).randrange)
    trt: Any = SimulatedTensorRT("10.3.0", device, refuse=method)
    session, batch = opened(device, onnx, trt=trt), frame(Random(0), 4, 5)
    with pytest.raises(BackendError, match=words) as caught:
        session.run(batch)
    assert "\n" not in str(caught.value)
    del caught
    trt.refuse = ""
    assert (session.run(batch) == expected(onnx, batch)).all(), "it can be tried again"
    session.close()
    del session
    empty(device)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensors": ["sr", "lr", "aux"]}, "the engine has the inputs and outputs sr, lr, aux, not one of each: build"),
        ({"tensors": ["sr"]}, "the engine has the inputs and outputs sr, not one of each: build it again"),
        ({"flat": True}, r"the engine makes \(1, 8, 30\) of \(1, 4, 5, 3\): build it again"),
        ({"floats": ["sr"]}, "the engine takes or makes no uint8: build it from the graph for uint8"),
        ({"scale": 0}, r"the engine makes \(-1, 4, 5, 3\) of \(1, 4, 5, 3\): build it again"),
    ],
)
def test_an_engine_that_is_none_of_ours_is_refused(onnx: Path, options: dict[str, Any], words: str) -> None:
    device = Device(Random(0).randrange)
    session = opened(device, onnx, engine=engine(onnx, **options))
    with pytest.raises(BackendError, match=words):
        session.run(frame(Random(0), 4, 5))
    assert not device.held, "and dropped at once"
    session.close()
    empty(device)


def test_an_engine_for_another_type_is_refused(onnx: Path, code: Code) -> None:
    device = Device(lambda n: n - 1)
    session = opened(device, onnx, code=code)
    session.run(np.zeros((1, 4, 5, 3), np.uint8))
    with pytest.raises(BackendError, match="the engine takes or makes no float32: build it from the graph for float32"):
        session.run(np.zeros((1, 4, 5, 3), np.float32))
    session.close()
    empty(device)


def test_inputs_and_outputs_are_told_apart_by_what_they_are(onnx: Path) -> None:
    device, batch = Device(Random(0).randrange), frame(Random(0), 4, 5)
    session = opened(device, onnx, engine=engine(onnx, tensors=["lr", "sr"]))
    assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_after_a_failure_it_says_so(onnx: Path, code: Code) -> None:
    device = Device(lambda n: n - 1)
    session, batch = opened(device, onnx, code=code), frame(Random(0), 4, 5)
    session.run(batch)
    device.fail["cudaGraphLaunch"] = 1
    with pytest.raises(BackendError, match=r"cudaGraphLaunch failed with cudaErrorInvalidValue \(1\): if it stays"):
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
    for call in (session.run, lambda batch: session.bare_ms(batch, 1)):
        with pytest.raises(BackendError, match="this session is closed: load the model again"):
            call(batch)
    assert (ticket.result() == expected(onnx, batch)).all()
    assert (ticket.result() == ticket.result()).all()
    empty(device)


def test_a_session_that_is_dropped_frees_the_gpu(onnx: Path, code: Code) -> None:
    device = Device(lambda n: 0)
    session, batch = opened(device, onnx, code=code), frame(Random(0), 4, 5)
    ticket = session.submit(batch)
    del session
    gc.collect()
    assert (ticket.result() == expected(onnx, batch)).all()
    del ticket
    empty(device)


def test_what_a_gpu_is(code: Code) -> None:
    cuda = code.cuda.Cuda(0, Device(lambda n: 0))
    assert (cuda.name, cuda.sm, cuda.integrated, cuda.free_memory()) == ("Simulated GPU", 87, False, 1 << 30)
    assert cuda.versions == (13020, 13000)
    shared = code.cuda.Cuda(0, Device(lambda n: 0, integrated=True, memory=1))
    assert shared.integrated
    assert shared.free_memory() > 1 << 20, "what the system can make free"
    resources = code.cuda.Resources(cuda)
    resources.device(1000)
    assert (cuda.memory, cuda.free_memory()) == (1 << 30, (1 << 30) - 1000)
    resources.close()
    second = code.cuda.Cuda(1, Device(lambda n: 0, devices=2))
    assert (second.device, second.name, second.sm, second.bus_id) == (1, "Simulated GPU 1", 97, "0000:02:00.0")


@pytest.mark.parametrize("devices", [0, 1])
@pytest.mark.parametrize("gpu", [-1, 1])
def test_a_gpu_that_is_not_there_is_one_line(devices: int, gpu: int) -> None:
    words = "no GPU is visible" if not devices else f"there is no GPU {gpu}: this machine has 1"
    with pytest.raises(BackendError, match=words):
        Cuda(gpu, Device(lambda n: 0, devices=devices))


def test_a_driver_that_is_not_there_is_one_line() -> None:
    class Missing:
        def cudaGetDeviceCount(self) -> None:
            raise RuntimeError("libcuda.so.1 is not there")

    with pytest.raises(
        BackendError, match=r"CUDA cannot be used \(libcuda.so.1 is not there\): install an NVIDIA driver"
    ):
        Cuda(0, Missing())


def test_one_log_serves_all_sessions(onnx: Path, code: Code) -> None:
    """TensorRT keeps the first that it is given for good."""
    device, batch = Device(lambda n: n - 1), frame(Random(0), 4, 5)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    first = opened(device, onnx, code=code, trt=trt)
    assert (first.run(batch) == expected(onnx, batch)).all()
    first.close()
    del first
    gc.collect()
    trt.refuse = "set_input_shape"
    second = opened(device, onnx, code=code, trt=trt)
    with pytest.raises(BackendError, match=r"refused \(1, 4, 5, 3\): set_input_shape: refused"):
        second.run(batch)
    second.close()
    empty(device)
    assert SIZES[0] == (4, 5)


@pytest.mark.parametrize(("free", "found"), [(1000, 2000 << 10), (1 << 29, 1 << 29)])
def test_shared_memory_is_what_the_system_can_make_free(
    code: Code, free: int, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class File:
        def __init__(self, name: str) -> None:
            assert name == "/proc/meminfo"

        def read_text(self, encoding: str) -> str:
            return "MemTotal: 9000 kB\nMemAvailable:    2000 kB\n"

    monkeypatch.setattr(code.cuda, "Path", File)
    assert code.cuda.Cuda(0, Device(lambda n: 0, integrated=True, memory=free)).free_memory() == found


def test_an_eighth_of_the_memory_is_for_the_widest_activation(onnx: Path, code: Code) -> None:
    device = Device(lambda n: 0)
    assert opened(device, onnx, code=code).activation_bytes == device.memory // 8


def test_each_shape_has_graphs(onnx: Path, code: Code) -> None:
    device = Device(lambda n: 0)
    session = opened(device, onnx, code=code)
    for count, size in enumerate(SIZES[:3], 1):
        session.run(frame(Random(0), *size))
        assert device.calls.count("cudaGraphInstantiate") == device.calls.count("cudaGraphUpload") == 2 * count
    session.close()


def test_a_result_is_the_callers_alone(onnx: Path, code: Code) -> None:
    device, batch = Device(lambda n: 0), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code)
    found = weakref.ref(session.run(batch))
    gc.collect()
    assert found() is None
    session.close()
