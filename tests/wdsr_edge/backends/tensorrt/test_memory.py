"""What a session keeps on a simulated GPU, what it drops when, and what is left after failures.

Tests that take ``code`` are what test_planted_bugs.py finds bugs with.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cuda_names import STICKY, Error
from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT
from tests.wdsr_edge.backends.tensorrt.schedules import SIZES, Code, empty, engine, expected, frame, opened
from wdsr_edge import BackendError
from wdsr_edge.backends.tensorrt.session import Run

pytestmark = pytest.mark.usefixtures("quick_collection")

WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
CALLS = (
    *("cudaSetDevice", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaMalloc", "cudaHostAlloc"),
    *("cudaHostGetDevicePointer", "cudaMemcpyAsync", "cudaEventRecord", "cudaGraphLaunch", "cudaEventElapsedTime"),
    *("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"),
)


def test_memory_is_set_aside_once_for_a_shape(onnx: Path, code: Code) -> None:
    device, random = Device(lambda n: n - 1), Random(0)
    session = opened(device, onnx, code=code)
    session.run(frame(random, 4, 5))
    before = device.calls.count("cudaMalloc"), device.calls.count("cudaHostAlloc")
    assert before == (6, 4)
    assert sorted(block.size for block in device.device.values()) == [60, 60, 120, 120, 240, 240]
    assert sorted(block.size for block in device.host.values()) == [60, 60, 240, 240]
    for _ in range(5):
        session.run(frame(random, 4, 5))
    assert (device.calls.count("cudaMalloc"), device.calls.count("cudaHostAlloc")) == before
    for size in SIZES:
        session.run(frame(random, *size))
    assert len(device.device) == 4 * 6, "no more than four shapes keep theirs"
    session.close()
    empty(device)


def test_an_engine_that_needs_no_memory_of_its_own_gets_none(onnx: Path, code: Code) -> None:
    device, batch = Device(lambda n: n - 1), frame(Random(0), 4, 5)
    session = opened(device, onnx, code=code, engine=engine(onnx, scratch=0))
    assert (session.run(batch) == expected(onnx, batch)).all()
    assert device.calls.count("cudaMalloc") == 4
    session.close()
    empty(device)


class Asked:
    """Plans by shape: ``shared`` sizes have one engine, the others one each."""

    def __init__(self, onnx: Path, code: Code, shared: tuple[tuple[int, int], ...] = (), **options: Any) -> None:
        self.onnx, self.code, self.shared, self.options = onnx, code, shared, options
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, shape: tuple[int, ...]) -> Any:
        self.shapes.append(shape[1:3])
        name = "shared" if shape[1:3] in self.shared else str(shape)
        return self.code.session.Plan(engine(self.onnx, name=name, **self.options))


def test_the_shape_that_was_longest_unused_goes_first(onnx: Path, code: Code) -> None:
    device, random, asked = Device(Random(0).randrange), Random(0), Asked(onnx, code)
    session = opened(device, onnx, code=code, plan_for=asked)
    a, b, c, d, e, f = SIZES
    for size in (a, b, c, d, a, b, e, f, a, b, e, f):
        batch = frame(random, *size)
        assert (session.run(batch) == expected(onnx, batch)).all()
    assert asked.shapes == [a, b, c, d, e, f], "c and d went, and a, b, e and f are there"
    session.run(frame(random, *c))
    session.run(frame(random, *b))
    session.run(frame(random, *a))
    assert asked.shapes == [a, b, c, d, e, f, c, a], "a was the longest unused when c came"
    session.close()
    empty(device)


def test_an_engine_goes_with_the_last_shape_that_uses_it(onnx: Path, code: Code) -> None:
    device, random = Device(Random(0).randrange), Random(0)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    a, b, c, d, e, f = SIZES
    session = opened(device, onnx, code=code, trt=trt, plan_for=Asked(onnx, code, shared=(a, b)))
    alive = []
    for size in (a, b, c, d, e, f):
        session.run(frame(random, *size))
        alive.append(trt.alive())
    assert alive == [1, 1, 2, 3, 4, 4], "that of a stays with b, and goes with it"
    assert len(trt.engines) == 5, "an engine is loaded once for both"
    session.close()
    assert trt.alive() == 0
    empty(device)


def test_no_copy_of_a_plan_is_kept(onnx: Path, code: Code) -> None:
    device = Device(Random(0).randrange)
    data = engine(onnx)
    before = sys.getrefcount(data)
    session = opened(device, onnx, code=code, plan_for=lambda shape: code.session.Plan(data))
    session.run(frame(Random(0), 4, 5))
    gc.collect()
    assert sys.getrefcount(data) == before
    session.close()


def peak(onnx: Path, code: Code, size: tuple[int, int], **options: Any) -> int:
    """Bytes of the GPU that a shape takes alone."""
    device = Device(lambda n: 0, **options)
    session = opened(device, onnx, code=code)
    session.run(frame(Random(0), *size))
    session.close()
    return device.peak


@pytest.mark.parametrize("integrated", [False, True])
def test_full_memory_drops_what_is_idle(onnx: Path, code: Code, integrated: bool) -> None:
    """Wherever it gets full, the new shape succeeds, and what was in flight keeps its results."""
    alone = [peak(onnx, code, size, integrated=integrated) for size in SIZES[:2]]
    for memory in range(max(alone), sum(alone) + 40, 40):
        device, random = Device(Random(memory).randrange, memory=memory, integrated=integrated), Random(0)
        session = opened(device, onnx, code=code, plan_for=Asked(onnx, code))
        waiting = []
        for size in (SIZES[0], SIZES[0], SIZES[1], SIZES[1], SIZES[0]):
            batch = frame(random, *size)
            waiting.append((session.submit(batch), expected(onnx, batch)))
        for ticket, wanted in waiting:
            assert (ticket.result() == wanted).all()
        session.close()
        del ticket
        waiting.clear()
        empty(device)


def test_full_memory_drops_all_that_is_idle(onnx: Path, code: Code) -> None:
    """Several small shapes make room for a large one."""
    large = (9, 9)
    device, random = Device(Random(0).randrange, memory=peak(onnx, code, large)), Random(0)
    session = opened(device, onnx, code=code)
    for size in (SIZES[0], SIZES[1], large, SIZES[0], SIZES[1]):
        batch = frame(random, *size)
        assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_full_memory_says_what_to_do_and_does_no_harm(onnx: Path, code: Code) -> None:
    device, random = Device(Random(0).randrange, memory=peak(onnx, code, SIZES[0])), Random(0)
    session = opened(device, onnx, code=code)
    for _ in range(2):
        batch = frame(random, *SIZES[0])
        ticket = session.submit(batch)
        with pytest.raises(
            BackendError, match=r"cudaMalloc failed with cudaErrorMemoryAllocation \(2\): the GPU's mem"
        ):
            session.submit(frame(random, 9, 9))
        assert not device.in_use(), "the idle were dropped"
        assert (ticket.result() == expected(onnx, batch)).all()
    session.close()
    empty(device)


def test_an_engine_or_context_that_finds_no_memory_is_one_line(onnx: Path, code: Code) -> None:
    for memory, words in (
        (999, r"the engine cannot be loaded \(Error Code 2: OutOfMemory \(Requested size was more than there is.\)\)"),
        (1099, r"no execution context \(Error Code 2: OutOfMemory"),
    ):
        device = Device(Random(0).randrange, memory=memory)
        session = opened(device, onnx, code=code)
        with pytest.raises(BackendError, match=words):
            session.run(frame(Random(0), 4, 5))
        assert not device.held
        session.close()
        empty(device)


class Proof:
    """Proves engines as the self-test does: a known batch in, a known one out."""

    def __init__(self, onnx: Path, size: tuple[int, int]) -> None:
        self.onnx, self.batch = onnx, frame(Random(7), *size)
        self.times = 0
        self.passes = True
        self.after: Callable[[], None] = lambda: None

    def __call__(self, run: Run) -> None:
        self.times += 1
        for _ in range(3):
            assert (run(self.batch) == expected(self.onnx, self.batch)).all()
        self.after()
        if not self.passes:
            raise BackendError("the engine is refused: choose another precision")


def test_an_engine_is_proven_before_its_first_frame(onnx: Path, code: Code) -> None:
    device, random, prove = Device(Random(0).randrange), Random(0), Proof(onnx, SIZES[0])
    trt: Any = SimulatedTensorRT("11.4.0", device)
    asked: list[tuple[int, ...]] = []

    def plan_for(shape: tuple[int, ...]) -> Any:
        asked.append(shape)
        return code.session.Plan(engine(onnx), prove)

    session = opened(device, onnx, code=code, trt=trt, plan_for=plan_for)
    prove.passes = False
    for times in (1, 2):
        with pytest.raises(BackendError, match=r"^the engine is refused: choose another precision$"):
            session.submit(frame(random, *SIZES[0]))
        assert (prove.times, len(asked)) == (times, times)
        assert not device.in_use(), "nothing of it is kept"
    prove.passes = True
    for _ in range(4):
        batch = frame(random, *SIZES[0])
        assert (session.run(batch) == expected(onnx, batch)).all()
    assert (prove.times, len(asked)) == (3, 3), "once for a shape"
    session.close()
    empty(device)


def test_an_interrupted_proof_leaves_nothing(onnx: Path, code: Code) -> None:
    device, prove = Device(Random(0).randrange), Proof(onnx, SIZES[0])

    def interrupt() -> None:
        raise KeyboardInterrupt

    prove.after = interrupt
    session = opened(device, onnx, code=code, plan_for=lambda shape: code.session.Plan(engine(onnx), prove))
    with pytest.raises(KeyboardInterrupt):
        session.submit(prove.batch)
    assert not device.in_use()
    prove.after = lambda: None
    assert (session.run(prove.batch) == expected(onnx, prove.batch)).all()
    session.close()
    empty(device)


def test_a_plan_that_cannot_be_had_is_asked_for_again(onnx: Path, code: Code) -> None:
    device, batch, fails = Device(Random(0).randrange), frame(Random(0), 4, 5), [True, False]

    def plan_for(shape: tuple[int, ...]) -> Any:
        if fails.pop(0):
            raise BackendError("the engine cannot be built")
        return code.session.Plan(engine(onnx))

    session = opened(device, onnx, code=code, plan_for=plan_for)
    with pytest.raises(BackendError, match="cannot be built"):
        session.run(batch)
    assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    empty(device)


def some_fail(onnx: Path, code: Code, device: Device, function: str, nth: int) -> list[str]:
    """Frames of two shapes, the n-th call of a function failing: the errors. Frames that come are right."""
    session = opened(device, onnx, code=code, slots=2)
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
    del session
    tickets.clear()
    gc.collect()
    return errors


@pytest.mark.parametrize("nth", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("function", CALLS)
def test_whichever_call_fails_it_is_one_line_and_nothing_leaks(onnx: Path, code: Code, function: str, nth: int) -> None:
    device = Device(Random(nth).randrange)
    errors = some_fail(onnx, code, device, function, nth)
    assert all("\n" not in error and "failed with cudaErrorInvalidValue (1)" in error for error in errors)
    del errors
    empty(device)


@pytest.mark.parametrize("error", sorted(STICKY))
@pytest.mark.parametrize(
    ("function", "nth"),
    [("work", 9), ("work", 30), ("cudaMalloc", 3), ("cudaGraphLaunch", 2), ("cudaStreamEndCapture", 2), (WAITS[1], 3)],
)
def test_when_the_gpu_is_lost_the_program_must_be_restarted(
    onnx: Path, code: Code, function: str, nth: int, error: Error
) -> None:
    """Every call gives that error from then on; to release what there was then neither raises nor does harm."""
    device = Device(Random(nth).randrange, error=error)
    errors = some_fail(onnx, code, device, function, nth)
    assert device.lost is error
    assert errors
    lost = f"{error.name} ({error.value}): the GPU's state is lost for this process: restart the program"
    assert all("\n" not in text and (lost in text or "could not be started" in text) for text in errors)
    assert lost in errors[-1]
    empty(device)


def test_which_errors_lose_the_gpu(code: Code) -> None:
    for error in Error:
        device = Device(lambda n: 0)
        cuda = code.cuda.Cuda(0, device)
        device.fail["cudaMemGetInfo"], device.error = 1, error
        if error:
            with pytest.raises(BackendError) as caught:
                cuda.free_memory()
            assert ("restart the program" in str(caught.value)) == (error in STICKY)
            assert isinstance(caught.value, code.cuda.OutOfMemory) == (error == Error.cudaErrorMemoryAllocation)


def test_what_fails_for_one_shape_leaves_the_others(onnx: Path, code: Code) -> None:
    device, random, asked = Device(Random(0).randrange), Random(0), Asked(onnx, code)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    session = opened(device, onnx, code=code, trt=trt, plan_for=asked)
    session.run(frame(random, *SIZES[0]))
    trt.refuse = "set_input_shape"
    with pytest.raises(BackendError, match="the engine refused"):
        session.run(frame(random, *SIZES[1]))
    session.run(frame(random, *SIZES[0]))
    assert asked.shapes == [*SIZES[:2]]
    session.close()


@pytest.mark.parametrize("release", ["11.4.0", "rtx-1.7.1"])
def test_nothing_of_tensorrt_is_left_when_a_session_is_closed(
    onnx: Path, code: Code, tmp_path: Path, release: str
) -> None:
    device = Device(Random(0).randrange)
    trt: Any = SimulatedTensorRT(release, device)
    session = opened(device, onnx, release, code, trt=trt, kernels=tmp_path / "kernels")
    session.run(frame(Random(0), *SIZES[0]))
    assert len(trt.others) == (2 if release.startswith("rtx") else 1)
    session.close()
    gc.collect()
    assert all(life.gone for life in (*trt.others, *trt.engines))
