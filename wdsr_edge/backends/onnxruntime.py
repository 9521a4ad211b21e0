"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re
import threading
from typing import Any

from numpy.typing import NDArray

from .._errors import BackendError
from .forks import never_free, opening, watch
from .quiet import load_onnxruntime, quiet_options


class OnnxRuntimeSession:
    """A graph in ONNX Runtime. Safe to call from several threads, and in a forked child, which opens its own."""

    def __init__(self, onnx: bytes, *, threads: int = 0, fuse_int8: bool = True) -> None:
        """``threads`` computes with that many; 0 takes one for each physical core. Raises BackendError.

        ``fuse_int8=False`` runs Q/DQ graphs node by node, slow and exact: fusing quantises biases, which overflows in
        the FP16 of TensorRT's form.
        """
        self._onnx, self._threads, self._fuse_int8 = onnx, threads, fuse_int8
        self._closed = False
        self._lock = threading.Lock()
        self._session: Any = self._open()
        watch(self)

    def _open(self) -> Any:
        with opening:
            return self._opened()

    def _opened(self) -> Any:
        ort = load_onnxruntime("onnxruntime")
        options = quiet_options(ort)
        options.intra_op_num_threads = self._threads
        if not self._fuse_int8:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        # A pattern is one more block of memory for each size of frame, beside those of its first run: a third more.
        options.enable_mem_pattern = False
        try:
            return ort.InferenceSession(self._onnx, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception types are private
            raise BackendError(f"ONNX Runtime refused the graph: {reason(error)}") from error

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See Session."""
        try:
            result: NDArray[Any] = (self._session or self._again()).run(None, {"lr": batch})[0]
        except BackendError:
            raise
        except Exception as error:  # its exception types are private
            raise BackendError(f"ONNX Runtime failed on {batch.shape}: {reason(error)}") from error
        return result

    def close(self) -> None:
        """See Session."""
        self._closed, self._session = True, None

    def leave(self) -> None:
        """See Watching."""
        if self._session is not None:
            never_free(self._session)
        self._session, self._lock = None, threading.Lock()

    def _again(self) -> Any:
        with self._lock:
            if self._closed:
                raise BackendError("this session is closed: load the model again")
            if self._session is None:
                self._session = self._open()
            return self._session


def reason(error: Exception) -> str:
    """Message of an ONNX Runtime error, in one line, without source locations."""
    return re.sub(r"/\S+:\d+ .*?\) ", "", " ".join(str(error).split()))[:300].rstrip(".")
