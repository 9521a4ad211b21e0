"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .._errors import BackendError, require


class OnnxRuntimeSession:
    """A graph in ONNX Runtime. Safe to call from several threads."""

    def __init__(self, onnx: bytes, *, threads: int = 0, fuse_int8: bool = True) -> None:
        """``threads`` computes with that many; 0 takes one for each physical core. Raises BackendError.

        ``fuse_int8=False`` runs Q/DQ graphs node by node, slow and exact: fusing quantises biases, which overflows in
        the FP16 of TensorRT's form.
        """
        ort = load_onnxruntime("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if not fuse_int8:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        # Ask the system for what a tile needs, not for the next power of two.
        provider = ("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})
        try:
            self._session: Any = ort.InferenceSession(onnx, options, providers=[provider])
        except Exception as error:  # its exception types are private
            raise BackendError(f"ONNX Runtime refused the graph: {_first_line(error)}") from error

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See Session."""
        try:
            result: NDArray[Any] = self._session.run(None, {"lr": batch})[0]
        except Exception as error:  # its exception types are private
            raise BackendError(f"ONNX Runtime failed on {batch.shape}: {_first_line(error)}") from error
        return result

    def close(self) -> None:
        """See Session."""
        self._session = None


def load_onnxruntime(extra: str) -> Any:
    """Its module, told to send nothing; MissingExtraError names the ``extra`` that brings it."""
    ort = require("onnxruntime", extra)
    getattr(ort, "disable_telemetry_events", lambda: None)()
    return ort


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
