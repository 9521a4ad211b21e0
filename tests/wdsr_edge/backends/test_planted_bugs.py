"""Bugs planted in the session and in what it stands on, one by one: the schedules must find each of them."""

from __future__ import annotations

import gc
import sys
import types
from pathlib import Path
from random import Random

import pytest

from tests.simulated_cuda import Device
from tests.wdsr_edge.backends.schedules import Code, empty, engine, expected, frame, opened, schedule
from wdsr_edge import BackendError
from wdsr_edge.backends import _cuda, tensorrt

pytestmark = pytest.mark.usefixtures("quick_collection")

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
    "the address of pinned memory is off by one": (
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
