"""OpenVINO on the CPU: the engine for INT8 there."""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any

from numpy.typing import NDArray

from .._errors import BackendError, require


class OpenVinoSession:
    """A graph in OpenVINO. One call at a time; others wait."""

    def __init__(self, onnx: bytes, *, threads: int = 0) -> None:
        """``threads`` computes with that many; 0 leaves it to OpenVINO. Raises BackendError."""
        require("openvino", "openvino")
        # Without the hint, a CPU that has bfloat16 computes FP32 graphs in it.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = _core(os.getpid())
            self._request: Any = core.compile_model(core.read_model(onnx), "CPU", options).create_infer_request()
        except Exception as error:  # RuntimeError of many lines
            raise BackendError(f"OpenVINO refused the graph: {_last_line(error)}") from error
        self._lock = threading.Lock()

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See Session."""
        try:
            with self._lock:
                result: NDArray[Any] = self._request.infer([batch], share_inputs=True)[0].copy()
        except Exception as error:  # RuntimeError of many lines
            raise BackendError(f"OpenVINO failed on {batch.shape}: {_last_line(error)}") from error
        return result

    def close(self) -> None:
        """See Session."""
        self._request = None


@cache
def _core(process: int) -> Any:
    """One for all sessions, so that its plugin is loaded once; a forked process lacks its threads and gets its own."""
    return require("openvino", "openvino").Core()


def _last_line(error: Exception) -> str:
    """What it says after the places in its own source."""
    return str(error).strip().rpartition("\n")[2]
