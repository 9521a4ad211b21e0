"""Which engines there are, and how one is opened."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal, cast, get_args

from .._errors import BackendError, InputError
from ..bundle import Precision
from .base import Session
from .options import GpuOptions, SelfTest
from .tensorrt import MODULES, Library
from .threads import thread_count

Backend = Literal[
    "auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime", "openvino"
]

BACKENDS: tuple[Backend, ...] = get_args(Backend)[1:]
"""All of them, in the order in which ``auto`` takes the first that works here."""

ON_CPU: tuple[Backend, ...] = ("onnxruntime", "openvino")
"""Those that need no GPU, and take a bundle's ``int8-cpu`` graph for INT8."""

COMPILED: tuple[Backend, ...] = get_args(Library)
"""Those that run compiled engines, out of the cache or a file."""

BUILT_FOR_SHAPES: tuple[Backend, ...] = (*COMPILED, "onnxruntime-tensorrt")
"""Those that compile an engine for each new shape, so that there should be few."""

_TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer.so.11")
_TENSORRT_DLLS = ("nvinfer_10", "nvinfer_11")
_DRIVER_DLL = "nvcuda.dll"
"""CUDA's driver on Windows; there are no files of devices there."""
_GPU_FILES = ("dev/nvidia[0-9]*", "dev/nvhost-gpu", "dev/nvgpu", "dev/dxg", "proc/driver/nvidia/gpus/*")


def installed() -> list[Backend]:
    """Backends whose package is installed, and for which there is what else they need, a GPU above all, best first."""
    found = [backend for backend in BACKENDS if is_installed(backend) and (backend in ON_CPU or has_gpu())]
    return [backend for backend in found if backend != "onnxruntime-tensorrt" or _has_tensorrt_library()]


def is_installed(backend: Backend) -> bool:
    """True if its package is there; a GPU is another matter."""
    if backend in COMPILED:
        return any(map(_has_module, MODULES[cast(Library, backend)]))
    if backend in ON_CPU:
        return _has_module(backend)
    return _has_module("onnxruntime") and bool(_version("onnxruntime-gpu"))


def version(backend: Backend) -> str:
    """Of its package; empty if that does not say."""
    if backend in COMPILED:
        names = {name for module in MODULES[cast(Library, backend)] for name in _distributions(module)}
    else:
        names = {backend.partition("-")[0], "onnxruntime-gpu"} if "onnx" in backend else {backend}
    return ", ".join(f"{name} {found}" for name in sorted(names) if (found := _version(name)))


def has_gpu(root: Path = Path("/")) -> bool:
    """True if there seems to be an NVIDIA GPU that this process may use, told without touching CUDA.

    Linux has files of its devices, Windows its driver's library; a process that has touched CUDA cannot be forked any
    more. macOS has no NVIDIA driver.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    if sys.platform == "win32":
        return (Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "System32" / _DRIVER_DLL).is_file()
    return any(next(root.glob(pattern), None) for pattern in _GPU_FILES)


def check_backend(backend: Backend) -> None:
    """InputError if there is no such backend, or WDSR_EDGE_THREADS is not a number of threads.

    BackendError if it is ``auto`` and nothing is installed.
    """
    thread_count()
    if backend not in get_args(Backend):
        raise InputError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "auto" and not installed():
        raise BackendError("no engine is installed: pip install 'wdsr-edge[onnxruntime]' (or openvino)")


def open_session(
    backend: Backend,
    onnx: bytes,
    precision: Precision = "fp32",
    *,
    gpu: GpuOptions | None = None,
    self_test: SelfTest | None = None,
    threads: int | None = None,
) -> Session:
    """``onnx``, a graph in ``precision``, in a session of ``backend``.

    ``self_test`` proves a compiled engine before its first frame. ``threads`` bounds a CPU backend, by default to what
    WDSR_EDGE_THREADS says. Raises BackendError, MissingExtraError, or InputError for ``threads``.
    """
    gpu = gpu or GpuOptions()
    if backend == "openvino":
        from .openvino import OpenVinoSession

        return OpenVinoSession(onnx, threads=thread_count(threads))
    if backend == "onnxruntime":
        from .onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(onnx, threads=thread_count(threads))
    if backend in COMPILED:
        from .tensorrt import open_device_session

        return open_device_session(cast(Library, backend), onnx, precision, gpu, self_test)
    from .onnxruntime_gpu import OnnxRuntimeGpuSession

    provider: Literal["cuda", "tensorrt"] = "cuda" if backend == "onnxruntime-cuda" else "tensorrt"
    return OnnxRuntimeGpuSession(onnx, provider, device=gpu.device, cache_dir=gpu.cache_dir, allow_cpu=gpu.allow_cpu)


def _has_module(name: str) -> bool:
    """True if it can be imported, and is not a bare folder of that name."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _has_tensorrt_library() -> bool:
    """True if ONNX Runtime's TensorRT provider has what it is linked to, which its package does not bring."""
    if sys.platform == "win32":  # looked for in PATH, as ONNX Runtime does
        return any(map(ctypes.util.find_library, _TENSORRT_DLLS))
    for name in _TENSORRT_LIBRARIES:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False


def _distributions(module: str) -> list[str]:
    return importlib.metadata.packages_distributions().get(module, []) if _has_module(module) else []


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
