"""ONNX Runtime on an NVIDIA GPU, through its CUDA or its TensorRT provider.

Frames go over in memory on the GPU that is set aside once for each shape ("I/O Binding" in ONNX Runtime's
documentation). CUDA graphs stay off: they want every node on the GPU and one shape for good, and here the size of the
output is worked out on the CPU, and tiles have several shapes.

A graph's own types say what it is computed in. The CUDA provider has no INT8 convolutions: a Q/DQ graph is as exact
there as elsewhere, and slower than FP16. TensorRT takes TF32 for FP32, and ONNX Runtime has no option for it;
``NVIDIA_TF32_OVERRIDE=0`` in the environment, before the program starts, forbids it.

(onnxruntime.ai, docs/execution-providers: CUDA-ExecutionProvider and TensorRT-ExecutionProvider;
onnxruntime_session_options_config_keys.h.)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import re
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._errors import BackendError
from .._files import private_folder, user_cache
from .forks import NO_GPU, never_free, watch
from .onnxruntime import reason
from .quiet import FATAL, load_onnxruntime, quiet_options, usual_severity

Provider = Literal["cuda", "tensorrt"]

SHAPES = 4
"""For so many, memory on the GPU is kept; the longest unused goes first."""

_LOG = logging.getLogger("wdsr_edge")

_TENSORRT, _CUDA, _CPU = _ALL = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
_WHOLE = "session.disable_cpu_ep_fallback"
_NEEDS = {
    _CUDA: "an NVIDIA driver, CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')",
    _TENSORRT: "an NVIDIA driver, CUDA, cuDNN, and in "
    f"{'PATH' if sys.platform == 'win32' else 'LD_LIBRARY_PATH'} the TensorRT that onnxruntime-gpu was built for",
}
_PACKAGE = (
    "the onnxruntime that is installed has none: pip uninstall onnxruntime onnxruntime-gpu, since both own one module, "
    "then pip install 'wdsr-edge[onnxruntime-gpu]'"
)
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    # Weights are dequantised once, and not for each batch. Sizes are worked out on the CPU by design, so that _WHOLE
    # would refuse every uint8 graph: where the nodes went is looked at afterwards.
    _CUDA: {"session.disable_quant_qdq": "1", "session.record_ep_graph_assignment_info": "1"},
    # Or biases become INT32 behind a DequantizeLinear, which TensorRT does not take and whose scale FP16 cannot hold.
    _TENSORRT: {"optimization.disable_specified_optimizers": "WeightBiasQuantization", _WHOLE: "1"},
}


class OnnxRuntimeGpuSession:
    """A graph in ONNX Runtime on a GPU. One call at a time; others wait."""

    def __init__(
        self,
        onnx: bytes,
        provider: Provider,
        *,
        device: int = 0,
        cache_dir: Path | None = None,
        allow_cpu: bool = False,
    ) -> None:
        """``device``: which GPU, as CUDA numbers them.

        TensorRT compiles an engine at the first batch, and again at each that is smaller or larger than all before.
        Engines are native code and kept in ``cache_dir``, the user's cache by default, in a folder that is private.

        All but the arithmetic of sizes runs in the provider, or BackendError is raised. ``allow_cpu`` lets it leave
        nodes, TensorRT to CUDA first and either to the CPU, and makes a warning of a provider that does not load.

        Raises BackendError, InputError for the folder, MissingExtraError if there is no ONNX Runtime.
        """
        ort = load_onnxruntime("onnxruntime-gpu")
        name, available = {"cuda": _CUDA, "tensorrt": _TENSORRT}[provider], ort.get_available_providers()
        # Without allow_cpu, no CUDA below TensorRT either: Q/DQ pairs torn apart are slow, and nobody would notice.
        wanted = _ALL[_ALL.index(name) :] if allow_cpu else (name,)
        providers = [(one, _options(one, onnx, device, cache_dir)) for one in wanted if one in available]
        settings = {key: value for key, value in _SETTINGS[name].items() if key != _WHOLE or not allow_cpu}
        self._session, fault = _open(ort, onnx, settings, providers)
        loaded = self._session.get_providers() if self._session else []
        if name not in loaded:
            fault = f"ONNX Runtime does not run the graph with {name} ({fault or 'it did not load'})"
            advice = f"if the graph is in order, see that there is {_NEEDS[name]}" if name in available else _PACKAGE
            if not loaded or not allow_cpu:
                raise BackendError(f"{fault}: {advice}")
            _LOG.warning("%s but with %s: %s", fault, loaded[0], advice)
        elif not allow_cpu and (left := _left_to_cpu(self._session)):
            raise BackendError(f"ONNX Runtime leaves {', '.join(left)[:200]} to the CPU: update it, or allow the CPU")
        self._on_gpu = loaded[0] != _CPU
        scale = self._session.get_modelmeta().custom_metadata_map.get("wdsr_edge.scale", "")
        self._scale = int(scale) if scale.isdecimal() else None
        self._allocate = ort.OrtValue.ortvalue_from_shape_and_type
        self._device = device
        self._bound: dict[tuple[tuple[int, ...], str], tuple[Any, Any]] = {}
        self._lock = threading.Lock()
        self._left = False
        watch(self)

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See Session."""
        if self._left:
            raise BackendError(NO_GPU)
        try:
            with self._lock:
                return self._run(np.ascontiguousarray(batch))
        except Exception as error:  # its exception types are private
            said = _reason(error)
            advice = "if it stays, see what wdsr-edge doctor says"
            if "memory" in said:
                advice = "if the GPU's memory is full, use a smaller frame or tile, or close what else uses it"
            raise BackendError(f"ONNX Runtime failed on {batch.shape}: {said}: {advice}") from error

    def close(self) -> None:
        """See Session."""
        with self._lock:
            self._bound.clear()
            self._session = None

    def leave(self) -> None:
        """See Watching."""
        never_free((self._session, self._bound))
        self._left, self._session, self._bound, self._lock = True, None, {}, threading.Lock()

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        sr: NDArray[Any]
        if not self._on_gpu:
            (sr,) = self._session.run(["sr"], {"lr": batch})
            return sr
        key = batch.shape, batch.dtype.str
        bound = self._bound.pop(key, None)
        if bound is None:
            if len(self._bound) == SHAPES:
                del self._bound[next(iter(self._bound))]
            bound = self._bind(batch)
        binding, lr = bound
        lr.update_inplace(batch)
        self._session.run_with_iobinding(binding)
        (sr,) = binding.copy_outputs_to_cpu()
        self._bound[key] = bound  # as the latest used; not if it failed
        return sr

    def _bind(self, batch: NDArray[Any]) -> tuple[Any, Any]:
        """Memory on the GPU for batches like ``batch``: the binding of input and output, and the input."""
        lr = self._allocate(batch.shape, batch.dtype, "cuda", self._device)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("lr", lr)
        if self._scale:
            across = (1, 2) if batch.dtype == np.uint8 else (2, 3)
            shape = [size * self._scale if axis in across else size for axis, size in enumerate(batch.shape)]
            binding.bind_ortvalue_output("sr", self._allocate(shape, batch.dtype, "cuda", self._device))
        else:
            binding.bind_output("sr", "cuda", self._device)
        return binding, lr


def _options(name: str, onnx: bytes, device: int, cache_dir: Path | None) -> dict[str, Any]:
    """Options of a provider."""
    if name == _CUDA:
        return {
            "device_id": device,
            "arena_extend_strategy": "kSameAsRequested",  # not the next power of two
            # EXHAUSTIVE, the default, would time every algorithm of every convolution anew for each shape.
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
        }
    if name == _TENSORRT:
        # Engines are named after nodes and not after weights: each graph has a folder of its own.
        folder = private_folder((cache_dir or user_cache()) / "onnxruntime-tensorrt")
        # With neither trt_fp16_enable nor trt_int8_enable, the types in the graph hold (since 1.18).
        return {
            "device_id": device,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(private_folder(folder / hashlib.sha256(onnx).hexdigest())),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(folder),
        }
    return {}


def _open(
    ort: Any, onnx: bytes, settings: Mapping[str, str], providers: list[tuple[str, dict[str, Any]]]
) -> tuple[Any, str]:
    """A session with the first of ``providers`` that goes and those after it, or None; and why others do not go."""
    options = quiet_options(ort)
    for key, value in settings.items():
        options.add_session_config_entry(key, value)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # it finds CUDA where pip puts it, since 1.21
        getattr(ort, "preload_dlls", lambda: None)()
    fault = printed.getvalue().partition("\n")[0]
    for first in range(len(providers)):
        ort.set_default_logger_severity(
            FATAL
        )  # what it says of libraries that it does not find is in the error as well
        try:
            # Its own fallback prints, and goes on without the provider.
            return ort.InferenceSession(onnx, options, providers=providers[first:], enable_fallback=False), fault
        except Exception as error:  # its exception types are private
            fault = _reason(error)
        finally:
            ort.set_default_logger_severity(usual_severity())
    return None, fault


def _left_to_cpu(session: Any) -> list[str]:
    """The nodes that run there, as ONNX Runtime tells since 1.24, but for those that work out sizes.

    Before, it tells of none: BackendError, unless TensorRT is asked for, which the session's settings see to.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        if session.get_providers()[0] != _CUDA:
            return []
        raise BackendError(
            "this ONNX Runtime does not tell what it leaves to the CPU: update it to 1.24 or later, or allow the CPU"
        )
    parts: list[Any] = session.get_provider_graph_assignment_info()
    nodes = [node for part in parts if part.ep_name == _CPU for node in part.get_nodes()]
    return [node.name for node in nodes if node.op_type not in ("Shape", "Mul")]


def _reason(error: Exception) -> str:
    """Message of an error, without source locations and the name of the machine."""
    found = re.search(r"CUDA failure [^;]*", " ".join(str(error).split()))
    return found[0].strip() if found else reason(error)
