"""Which engines there are, and how one is opened."""

from __future__ import annotations

import importlib.util
from typing import Literal, get_args

from .._errors import BackendError, InputError
from .base import Session

Backend = Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]

BUILT: tuple[Backend, ...] = ("onnxruntime", "openvino")
"""Backends of this version, in the order in which ``auto`` takes the first that is installed."""

ON_CPU: frozenset[Backend] = frozenset({"onnxruntime", "openvino"})
"""Those that take a bundle's ``int8-cpu`` graph for INT8."""


def installed() -> list[Backend]:
    """Backends of this version whose package is installed, best first."""
    return [backend for backend in BUILT if importlib.util.find_spec(backend) is not None]


def resolve(backend: Backend) -> Backend:
    """The backend that ``backend`` means here; InputError or BackendError if there is none."""
    if backend not in get_args(Backend):
        raise InputError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "auto":
        found = installed()
        if not found:
            raise BackendError("no engine is installed: pip install 'wdsr-edge[onnxruntime]' (or openvino)")
        return found[0]
    if backend not in BUILT:
        raise BackendError(f"backend {backend} is not built yet in this version: use {', '.join(BUILT)}")
    return backend


def open_session(backend: Backend, onnx: bytes) -> Session:
    """``onnx`` in a session of ``backend``, which ``resolve`` returned."""
    if backend == "openvino":
        from .openvino import OpenVinoSession

        return OpenVinoSession(onnx)
    assert backend == "onnxruntime"
    from .onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(onnx)
