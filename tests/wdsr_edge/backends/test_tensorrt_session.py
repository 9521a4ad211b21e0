"""The session on a simulated GPU: thousands of schedules, every failure, and planted bugs that must be found."""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.simulated_cuda import Device, Fault, SimulatedTensorRT, _session
from tests.strategies import trained_like
from tests.tensorrt_standin import RELEASES
from wdsr_edge import BackendError
from wdsr_edge.backends import _cuda, tensorrt
from wdsr_edge.backends._cuda import Cuda
from wdsr_edge.backends.tensorrt import TensorRtSession
from wdsr_edge.config import ModelConfig
from wdsr_export import export_onnx

Frame = NDArray[np.uint8]
SIZES = ((4, 5), (6, 3), (5, 5), (3, 7), (7, 4), (4, 4))


class Code(NamedTuple):
    """The modules under test, as they are or with a bug."""

    cuda: Any
    session: Any


OURS = Code(_cuda, tensorrt)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "m.onnx"
    export_onnx(trained_like(ModelConfig.from_name("wdsr-b-1x8-x2")), path)
    return path


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def engine(onnx: Path, *profiles: Any) -> bytes:
    found = profiles or [((1, 1, 1, 3), (1, 4, 4, 3), (1, 9, 9, 3))]
    return json.dumps({"onnx": str(onnx), "scale": 2, "profiles": found}).encode()


def expected(onnx: Path, frame: Frame) -> Frame:
    found: Frame = _session(str(onnx)).run(None, {"lr": frame})[0]
    return found


def frame(random: Random, height: int, width: int) -> Frame:
    return np.frombuffer(random.randbytes(3 * height * width), np.uint8).reshape(1, height, width, 3).copy()


def opened(device: Device, onnx: Path, release: str = "11.4.0", code: Code = OURS, **options: Any) -> TensorRtSession:
    trt = options.pop("trt", None) or SimulatedTensorRT(release, device)
    data = options.pop("engine", engine(onnx))
    library = "tensorrt-rtx" if release.startswith("rtx") else "tensorrt"
    found: TensorRtSession = code.session.TensorRtSession(
        library, trt, code.cuda.Cuda(0, device), lambda shape: data, **options
    )
    return found


def empty(device: Device) -> None:
    gc.collect()
    device.check_empty()


def schedule(onnx: Path, seed: int, code: Code = OURS) -> None:
    """Some frames of some shapes, taken and given in some order, on a GPU that works in some order."""
    random = Random(seed)
    chooses = (random.randrange, lambda n: 0, lambda n: n - 1)
    device = Device(chooses[min(random.randrange(6), 2)], integrated=random.random() < 0.25)
    session = opened(
        device,
        onnx,
        random.choice(RELEASES),
        code,
        slots=random.choice((1, 2, 2, 3)),
        graphs=random.random() < 0.75,
    )
    waiting: list[tuple[Any, Frame]] = []
    done: list[tuple[Frame, Frame]] = []
    sizes = SIZES[: random.choice((1, 2, len(SIZES)))]
    for _ in range(random.randrange(1, 14)):
        if random.random() < 0.65 or not waiting:
            batch = frame(random, *random.choice(sizes))
            wanted = expected(onnx, batch)
            waiting.append((session.submit(batch), wanted))
            batch[:] = 0
        else:
            ticket, wanted = waiting.pop(random.randrange(len(waiting)))
            done.append((ticket.result(), wanted))
            assert ticket.timing.compute_ms > 0
    if random.random() < 0.5:
        session.close()
    done += [(ticket.result(), wanted) for ticket, wanted in waiting]
    session.close()
    for found, wanted in done:
        assert found.flags.owndata
        assert (found == wanted).all()
    del session
    waiting.clear()
    empty(device)


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


def test_threads_share_a_session(onnx: Path) -> None:
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


BUGS: dict[str, tuple[str, str, str]] = {
    "a result is read before its download": (
        "session",
        'self._cuda.call("cudaEventSynchronize", self._downloaded)',
        "pass",
    ),
    "a result is read when it is computed": (
        "session",
        '"cudaEventSynchronize", self._downloaded)',
        '"cudaEventSynchronize", self._computed)',
    ),
    "a slot is taken before its frame was fetched": (
        "session",
        ("            self._ticket.settle()\n        self._host_lr"),
        ("            pass\n        self._host_lr"),
    ),
    "a result is the pinned memory itself": (
        "session",
        ".reshape(self._shape).copy()",
        ".reshape(self._shape)",
    ),
    "two slots share an execution context": (
        "session",
        ("for _ in range(self._slots):\n            context = engine.create_execution_context()"),
        ("context = engine.create_execution_context()\n        for _ in range(self._slots):"),
    ),
    "the upload comes after the computing": (
        "session",
        (
            '        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")\n'
            "        self._record(self._uploaded)\n"
            "        if self._graph is None:\n"
            "            self._context.enqueue(self._stream)\n"
            "        else:\n"
            '            self._cuda.call("cudaGraphLaunch", self._graph, self._stream)\n'
        ),
        (
            "        self._record(self._uploaded)\n"
            "        if self._graph is None:\n"
            "            self._context.enqueue(self._stream)\n"
            "        else:\n"
            '            self._cuda.call("cudaGraphLaunch", self._graph, self._stream)\n'
            '        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")\n'
        ),
    ),
    "a capture before the first run": (
        "session",
        (
            "self._context.enqueue(self._stream)\n"
            '        self._cuda.call("cudaStreamSynchronize", self._stream)\n'
            "        if not graph"
        ),
        "if not graph",
    ),
    "no wait between the first run and the capture": (
        "session",
        ('        self._cuda.call("cudaStreamSynchronize", self._stream)\n        if not graph'),
        "        if not graph",
    ),
    "a slot is closed under work": (
        "session",
        (
            "            self._ticket.settle()\n"
            "        try:\n"
            '            self._cuda.call("cudaStreamSynchronize", self._stream)'
        ),
        ("            pass\n        try:\n            pass"),
    ),
    "half of the output is downloaded": (
        "session",
        "addresses, size, way",
        "addresses, size // 2, way",
    ),
    "a copy in the wrong direction": (
        "session",
        'self._copy(self._host_sr, self._sr, "cudaMemcpyDeviceToHost")',
        'self._copy(self._host_sr, self._sr, "cudaMemcpyHostToDevice")',
    ),
    "shared memory is copied": (
        "session",
        ("        if self._cuda.integrated:\n            return\n"),
        "",
    ),
    "input and output share memory": (
        "session",
        "(context.sr, self._sr)):",
        "(context.sr, self._lr)):",
    ),
    "too little memory for the output": (
        "session",
        "size = int(np.prod(shape)) * batch.itemsize",
        "size = batch.nbytes",
    ),
    "the first profile is taken for all": (
        "session",
        "if all(low <= side <= high for",
        "if all(True for",
    ),
    "memory is not freed": (
        "cuda",
        '"cudaMalloc", size), "cudaFree")',
        '"cudaMalloc", size), "cudaGetDeviceCount")',
    ),
    "pinned memory is freed as the GPU's": (
        "cuda",
        '"cudaFreeHost"',
        '"cudaFree"',
    ),
    "a captured graph is not destroyed": (
        "cuda",
        'self._release("cudaGraphDestroy", captured[0])',
        "pass",
    ),
    "a capture that other threads can spoil": (
        "cuda",
        "cudaStreamCaptureModeThreadLocal",
        "cudaStreamCaptureModeGlobal",
    ),
    "events are not destroyed": (
        "cuda",
        'flags), "cudaEventDestroy")',
        'flags), "cudaSetDevice")',
    ),
    "errors are not looked at": (
        "cuda",
        "if int(error) != 0:",
        "if False:",
    ),
    "the address on the host is given to the GPU": (
        "cuda",
        'seen = int(self.cuda.call("cudaHostGetDevicePointer", pointer, 0))',
        "seen = int(pointer) + 1",
    ),
    "engines are freed before contexts": (
        "session",
        (
            "            for shape in self._shapes.values():\n"
            "                shape.close()\n"
            "            self._shapes.clear()\n"
        ),
        "            self._shapes.clear()\n",
    ),
}
"""What is wrong, in which module, what stands there, and what the bug puts in its place."""


def with_bug(module: str, good: str, bad: str) -> Code:
    """The two modules, with ``bad`` in place of ``good`` in one of them."""
    found: dict[str, types.ModuleType] = {}
    for name, original in (("cuda", _cuda), ("session", tensorrt)):
        source = Path(str(original.__file__)).read_text()
        if name == module:
            assert source.count(good) == 1, f"{source.count(good)} places for this bug"
            source = source.replace(good, bad)
        made = types.ModuleType(str(original.__name__))
        made.__dict__.update(__package__="wdsr_edge.backends", __file__=original.__file__)
        if name == "session":
            source = source.replace("from ._cuda import Cuda, Resources", "")
            made.__dict__.update(Cuda=found["cuda"].Cuda, Resources=found["cuda"].Resources)
        exec(compile(source, str(original.__file__), "exec"), made.__dict__)
        found[name] = made
    return Code(found["cuda"], found["session"])


def profiles_matter(onnx: Path, code: Code) -> None:
    device = Device(lambda n: n - 1)
    session = opened(device, onnx, code=code, engine=engine(onnx, ((1, 4, 5, 3),) * 3, ((1, 5, 4, 3),) * 3))
    for size in ((4, 5), (5, 4)):
        batch = frame(Random(0), *size)
        assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def errors_matter(onnx: Path, code: Code) -> None:
    device = Device(lambda n: n - 1)
    session = opened(device, onnx, code=code)
    device.fail["cudaMemcpyAsync"] = 5
    session.run(frame(Random(0), 4, 5))
    with pytest.raises(BackendError):
        session.run(frame(Random(0), 4, 5))


def survives(onnx: Path, code: Code) -> bool:
    """Whether nothing is found to be wrong with ``code``."""
    try:
        profiles_matter(onnx, code)
        errors_matter(onnx, code)
        for seed in range(300):
            schedule(onnx, seed, code)
    except (Exception, pytest.fail.Exception):
        return False
    return True


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(onnx: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)  # of sessions that the bug left behind
    found = not survives(onnx, with_bug(*BUGS[name]))
    gc.collect()
    assert found


def test_without_a_bug_the_same_passes(onnx: Path) -> None:
    assert survives(onnx, with_bug("none", "", ""))
