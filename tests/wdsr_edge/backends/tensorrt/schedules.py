"""Frames through a session on a simulated GPU, in some order: what finds bugs in it."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT, session_of
from tests.tensorrt_standin import RELEASES
from wdsr_edge.backends.tensorrt import contexts as _contexts
from wdsr_edge.backends.tensorrt import cuda as _cuda
from wdsr_edge.backends.tensorrt import session as tensorrt
from wdsr_edge.backends.tensorrt import slots as _slots
from wdsr_edge.backends.tensorrt.session import TensorRtSession

Frame = NDArray[np.uint8]
SIZES = ((4, 5), (6, 3), (5, 5), (3, 7), (7, 4), (4, 4))
RTX = "rtx-1.7.1"
_Found = TypeVar("_Found")


class Code(NamedTuple):
    """The modules under test, as they are or with a bug."""

    cuda: Any
    contexts: Any
    slots: Any
    session: Any


OURS = Code(_cuda, _contexts, _slots, tensorrt)


def engine(onnx: Path | None, *profiles: Any, **options: Any) -> bytes:
    """A serialised engine; ``options``: see SimulatedEngine."""
    found = profiles or [((1, 1, 1, 3), (1, 4, 4, 3), (1, 9, 9, 3))]
    return json.dumps({"onnx": str(onnx or ""), "scale": 2, "profiles": found, **options}).encode()


def expected(onnx: Path, frame: Frame) -> Frame:
    found: Frame = session_of(str(onnx)).run(None, {"lr": frame})[0]
    return found


def frame(random: Random, height: int, width: int) -> Frame:
    return np.frombuffer(random.randbytes(3 * height * width), np.uint8).reshape(1, height, width, 3).copy()


def opened(device: Device, onnx: Path, release: str = "11.4.0", code: Code = OURS, **options: Any) -> TensorRtSession:
    """A session; ``engine``: the one for all shapes; ``gpu``: on which; and TensorRtSession's own options."""
    trt = options.pop("trt", None) or SimulatedTensorRT(release, device)
    plan = code.session.Plan(options.pop("engine", engine(onnx)))
    plan_for = options.pop("plan_for", lambda shape: plan)
    cuda = code.cuda.Cuda(options.pop("gpu", 0), device)
    library = "tensorrt-rtx" if release.startswith("rtx") else "tensorrt"
    found: TensorRtSession = code.session.TensorRtSession(library, trt, cuda, plan_for, **options)
    return found


def empty(device: Device) -> None:
    gc.collect()
    device.check_empty()


def elsewhere(do: Callable[..., _Found], *arguments: Any, seconds: float = 20) -> _Found:
    """What ``do`` returns or raises in a thread of its own, whose GPU is the first until it selects another."""
    return Elsewhere(do, *arguments).wait(seconds)


class Elsewhere:
    """A call in a thread of its own."""

    def __init__(self, do: Callable[..., Any], *arguments: Any) -> None:
        self._found: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(do, *arguments), daemon=True)
        self._thread.start()

    def _run(self, do: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._found = do(*arguments)
        except BaseException as error:
            self._error = error

    def wait(self, seconds: float = 20) -> Any:
        """What it returned or raised."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError("a thread waits for ever")
        found, error = self._found, self._error
        self._found = self._error = None
        if error is not None:
            try:
                raise error
            finally:
                del error
        return found


Finds = Callable[[Path, Code, Path], None]
"""What finds a bug: takes an ONNX file, the modules, and a folder."""

Bugs = dict[str, tuple[str, str, str, Finds]]
"""What is wrong, in which module, what stands there, what the bug puts in its place, and what finds it."""


def by(test: Callable[..., None], *arguments: Any) -> Finds:
    """One of the tests, as what finds a bug."""
    return lambda onnx, code, folder: test(onnx, code, *arguments)


def schedules(onnx: Path, code: Code, folder: Path) -> None:
    """Many schedules, as what finds a bug."""
    for seed in range(300):
        schedule(onnx, seed, code)


def schedule(onnx: Path, seed: int, code: Code = OURS) -> None:
    """Some frames of some shapes, taken and given in some order and thread, on a GPU that works in some order."""
    random = Random(seed)
    chooses = (*[random.randrange] * 4, lambda n: 0, lambda n: n - 1)
    device = Device(random.choice(chooses), integrated=random.random() < 0.25, devices=2)
    gpu = int(random.random() < 0.3)
    session = opened(
        device,
        onnx,
        random.choice(RELEASES),
        code,
        gpu=gpu,
        slots=random.choice((1, 2, 2, 3)),
        graphs=random.random() < 0.75,
    )

    def call(do: Callable[..., _Found], *arguments: Any) -> _Found:
        way = random.randrange(8)
        if way == 0:
            return elsewhere(do, *arguments)
        if way == 1:
            device.cudaSetDevice(random.randrange(2))  # as others do that have work in this thread
        return do(*arguments)

    waiting: list[tuple[Any, Frame]] = []
    done: list[tuple[Frame, Frame]] = []
    sizes = SIZES[: random.choice((1, 2, len(SIZES)))]
    for _ in range(random.randrange(1, 14)):
        if random.random() < 0.65 or not waiting:
            batch = frame(random, *random.choice(sizes))
            if random.random() < 0.1:
                batch = batch.transpose(0, 2, 1, 3)  # which is not how it lies in memory
            wanted = expected(onnx, batch)
            waiting.append((call(session.submit, batch), wanted))
            batch[:] = 0
        else:
            ticket, wanted = waiting.pop(random.randrange(len(waiting)))
            done.append((call(ticket.result), wanted))
            assert ticket.timing.compute_ms >= 5
    if random.random() < 0.5:
        call(session.close)
    done += [(call(ticket.result), wanted) for ticket, wanted in waiting]
    call(session.close)
    for found, wanted in done:
        assert found.flags.owndata
        assert (found == wanted).all()
    del session, call
    waiting.clear()
    empty(device)
    assert device.owners == {gpu}
    assert not device.spoiled
