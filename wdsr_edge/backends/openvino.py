"""OpenVINO on the CPU: the engine for INT8 there."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import BackendError, require
from .forks import never_free, opening, watch

KERNELS = 32
"""So many kernels of a graph are kept, each made for one shape: some sizes of frames. Left alone, OpenVINO
keeps 5000, some 650 KiB for each size. A kernel is only looked for where the size is another than the last one."""

_FORKED = (
    "OpenVINO does not work in a forked process whose parent has used it: load the model in each process and not "
    "before, start processes with multiprocessing's spawn, or take backend 'onnxruntime'"
)


class OpenVinoSession:
    """A graph in OpenVINO. One call at a time; others wait. A forked child is refused at once."""

    def __init__(self, onnx: bytes, *, threads: int = 0) -> None:
        """``threads`` computes with that many; 0 leaves it to OpenVINO. Raises BackendError."""
        # Without the hint, a CPU that has bfloat16 computes FP32 graphs in it.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        with opening:
            core = _library.core()
            try:
                self._request: Any = core.compile_model(core.read_model(onnx), "CPU", options).create_infer_request()
            except Exception as error:  # RuntimeError of many lines
                raise BackendError(f"OpenVINO refused the graph: {_last_line(error)}") from error
        self._left = False
        self._lock = threading.Lock()
        watch(self)

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See Session."""
        if self._left:
            raise BackendError(_FORKED)
        try:
            with self._lock:
                result: NDArray[Any] = self._request.infer([batch], share_inputs=True)[0].copy()
        except Exception as error:  # RuntimeError of many lines
            raise BackendError(f"OpenVINO failed on {batch.shape}: {_last_line(error)}") from error
        return result

    def close(self) -> None:
        """See Session."""
        self._request = None

    def leave(self) -> None:
        """See Watching."""
        if self._request is not None:
            never_free(self._request)
        self._left, self._request, self._lock = True, None, threading.Lock()


class _Library:
    """One Core for all sessions, so that its plugin is loaded once."""

    def __init__(self) -> None:
        self._core: Any = None
        self._left = False
        watch(self)

    def core(self) -> Any:
        """Opened when it is first needed; BackendError in a child of a process that has done so."""
        if self._left:
            raise BackendError(_FORKED)
        if self._core is None:
            openvino = _import_openvino()
            _ = openvino.Tensor(np.zeros(1, np.uint8)).data  # two threads that are its first at once wait for ever
            self._core = openvino.Core()
            with contextlib.suppress(Exception):  # a version that does not know it
                self._core.set_property("CPU", {"CPU_RUNTIME_CACHE_CAPACITY": KERNELS})
        return self._core

    def leave(self) -> None:
        """See Watching."""
        if self._core is not None:
            never_free(self._core)
            self._left = True


_library = _Library()


def _import_openvino() -> Any:
    """Its module, without the package by which it reports its use, from a forked process at that."""
    absent = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return require("openvino", "openvino")
    finally:
        if absent:
            del sys.modules["openvino_telemetry"]


def _last_line(error: Exception) -> str:
    """Message without source locations."""
    return str(error).strip().rpartition("\n")[2]
