"""A stand-in for onnxruntime-gpu: it computes with the real ONNX Runtime on the CPU, and is strict about the rest.

What ONNX Runtime only warns of, or what would read memory too early, is a ``Fault`` here: options and settings that it
does not have, memory on another device, an update of another shape or in another thread's run, an output that was not
computed since. Providers load, refuse aloud, or vanish in silence, as they do where libraries are missing. Memory is
poisoned when it is set aside; ``live`` has what is still there.
"""

from __future__ import annotations

import stat
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from wdsr_edge.onnx_reader import read_onnx

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"

CUDA_OPTIONS = {
    "device_id": "0 1 2 3",
    "arena_extend_strategy": "kNextPowerOfTwo kSameAsRequested",
    "cudnn_conv_algo_search": "EXHAUSTIVE HEURISTIC DEFAULT",
    **dict.fromkeys(
        (
            *("cudnn_conv1d_pad_to_nc1d", "cudnn_conv_use_max_workspace", "do_copy_in_default_stream"),
            *("enable_cuda_graph", "enable_skip_layer_norm_strict_mode", "fuse_conv_bias", "has_user_compute_stream"),
            *("prefer_nhwc", "tunable_op_enable", "tunable_op_tuning_enable", "use_ep_level_unified_stream"),
            "use_tf32",
        ),
        "0 1 True False",
    ),
    **dict.fromkeys(
        (
            *("gpu_external_alloc", "gpu_external_empty_cache", "gpu_external_free", "gpu_mem_limit", "sdpa_kernel"),
            *("tunable_op_max_tuning_duration_ms", "user_compute_stream"),
        ),
        "",
    ),
}
"""Names, and values in words; anything where there are none. (CUDA-ExecutionProvider, and the provider's own list.)"""

TENSORRT_OPTIONS = {
    "device_id": "0 1 2 3",
    **dict.fromkeys(
        (
            *("trt_bf16_enable", "trt_build_heuristics_enable", "trt_context_memory_sharing_enable"),
            *("trt_cuda_graph_enable", "trt_detailed_build_log", "trt_dla_enable", "trt_dump_ep_context_model"),
            *("trt_dump_subgraphs", "trt_engine_cache_enable", "trt_engine_decryption_enable"),
            *("trt_engine_hw_compatible", "trt_force_sequential_engine_build", "trt_force_timing_cache"),
            *("trt_fp16_enable", "trt_int8_enable", "trt_int8_use_native_calibration_table"),
            *("trt_layer_norm_fp32_fallback", "trt_sparsity_enable", "trt_timing_cache_enable"),
            "trt_weight_stripped_engine_enable",
        ),
        "True False",  # the Python binding takes no numbers
    ),
    **dict.fromkeys(
        (
            *("trt_auxiliary_streams", "trt_builder_optimization_level", "trt_dla_core", "trt_engine_cache_path"),
            *("trt_engine_cache_prefix", "trt_engine_decryption_lib_path", "trt_ep_context_embed_mode"),
            *("trt_ep_context_file_path", "trt_extra_plugin_lib_paths", "trt_int8_calibration_table_name"),
            *("trt_max_partition_iterations", "trt_max_workspace_size", "trt_min_subgraph_size"),
            *("trt_onnx_model_folder_path", "trt_op_types_to_exclude", "trt_preview_features"),
            *("trt_profile_max_shapes", "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_tactic_sources"),
            "trt_timing_cache_path",
        ),
        "",
    ),
}
"""As ``CUDA_OPTIONS``. (TensorRT-ExecutionProvider, and the provider's own list.)"""

OPTIONS: dict[str, dict[str, str]] = {CUDA: CUDA_OPTIONS, TENSORRT: TENSORRT_OPTIONS, CPU: {}}

SETTINGS = {
    "optimization.disable_specified_optimizers",
    "session.disable_cpu_ep_fallback",
    "session.disable_quant_qdq",
    "session.record_ep_graph_assignment_info",
}
"""Of onnxruntime_session_options_config_keys.h, those that are in use."""

_SOURCE = "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::f(const int&, bool) "


class Fault(BaseException):
    """A mistake in what uses ONNX Runtime; no handler of exceptions hides it."""


class OnnxRuntime:
    """The module."""

    def __init__(
        self,
        *,
        available: Sequence[str] = (TENSORRT, CUDA, CPU),
        silent: Sequence[str] = (),
        refused: Sequence[str] = (),
        refusal: str = f"{_SOURCE}Please install its libraries\nas mentioned in the requirements.\n",
        left_to_cpu: Sequence[tuple[str, str]] = (),
        tells_placement: bool = True,
        device: int = 0,
        room: int = 1 << 30,
    ) -> None:
        """``silent`` and ``refused`` providers do not load, the latter with an error of the text ``refusal``.

        ``left_to_cpu``: names and operators; ``room``: bytes on the GPU.
        """
        self.available, self.silent = available, silent
        self.refused, self.refusal = refused, refusal
        self.left_to_cpu, self.tells_placement = left_to_cpu, tells_placement
        self.device, self.room = device, room
        self.sends_telemetry = True
        self.allocated: list[tuple[int, ...]] = []
        self.live: weakref.WeakSet[Value] = weakref.WeakSet()
        self.sessions: list[Session] = []
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._allocate)
        self.SessionOptions = SessionOptions

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity in range(5)

    def get_available_providers(self) -> list[str]:
        return list(self.available)

    def disable_telemetry_events(self) -> None:
        self.sends_telemetry = False

    def preload_dlls(self) -> None:
        if CUDA in self.silent:
            print("Failed to load libcublasLt.so.13: cannot open shared object file")
            print("Please follow https://onnxruntime.ai/docs/install/#cuda-and-cudnn to install CUDA.")

    def InferenceSession(
        self,
        onnx: bytes,
        options: SessionOptions,
        *,
        providers: Sequence[tuple[str, dict[str, Any]]],
        enable_fallback: bool = True,
    ) -> Session:
        session = Session(self, onnx, options, providers, enable_fallback)
        self.sessions.append(session)
        return session

    def check_device(self, device_type: str, device: int) -> None:
        if (device_type, device) != ("cuda", self.device):
            raise Fault(f"memory on {device_type} {device}, and the session is on cuda {self.device}")

    def allocate(self, shape: Sequence[int], dtype: Any) -> Value:
        value = Value(tuple(shape), np.dtype(dtype))
        if value.array.nbytes + sum(other.array.nbytes for other in self.live) > self.room:
            raise RuntimeError(f"{_SOURCE}Failed to allocate memory for a buffer of size {value.array.nbytes}\n\n")
        self.live.add(value)
        return value

    def _allocate(self, shape: Sequence[int], element_type: Any, device_type: str = "cpu", device_id: int = 0) -> Value:
        self.check_device(device_type, device_id)
        value = self.allocate(shape, element_type)
        self.allocated.append(tuple(shape))
        return value


class SessionOptions:
    """Settings, all of which exist."""

    __slots__ = ("log_severity_level", "settings")

    def __init__(self) -> None:
        self.log_severity_level = 2
        self.settings: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        if key not in SETTINGS:
            raise Fault(f"no setting of ONNX Runtime: {key}")
        self.settings[key] = value


class Value:
    """A tensor on the GPU."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = int(np.prod(shape)) * dtype.itemsize
        self.array: NDArray[Any] = np.frombuffer(bytearray(b"\xa5" * size), dtype).reshape(shape)
        self.version = 0
        self.in_use = threading.Lock()

    def update_inplace(self, data: NDArray[Any]) -> None:
        if (data.shape, data.dtype) != (self.array.shape, self.array.dtype):
            raise Fault(f"{data.dtype} {data.shape} into {self.array.dtype} {self.array.shape}")
        if not data.flags.c_contiguous:
            raise Fault("an update that is not contiguous")
        with alone(self.in_use, "an update under a run"):
            self.array[...] = data
            self.version += 1


class Binding:
    """Input and output of one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lr: Value | None = None
        self.sr: Value | None = None
        self.sr_is_fixed = False
        self.computed = -1

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self._check(name, "lr")
        self.lr = value

    def bind_ortvalue_output(self, name: str, value: Value) -> None:
        self._check(name, "sr")
        self.sr, self.sr_is_fixed = value, True

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0) -> None:
        self._check(name, "sr")
        self.session.ort.check_device(device_type, device_id)
        self.sr_is_fixed = False

    def copy_outputs_to_cpu(self) -> list[NDArray[Any]]:
        if self.lr is None or self.sr is None or self.computed != self.lr.version:
            raise Fault("an output that was not computed since")
        return [self.sr.array.copy()]

    def _check(self, name: str, wanted: str) -> None:
        if name != wanted:
            raise Fault(f"{name!r} in place of {wanted!r}")


class Session:
    """A graph in the providers that load."""

    def __init__(
        self,
        ort: OnnxRuntime,
        onnx: bytes,
        options: SessionOptions,
        providers: Sequence[tuple[str, dict[str, Any]]],
        enable_fallback: bool,
    ) -> None:
        self.ort, self.settings, self.asked = ort, options.settings, dict(providers)
        self.plain_runs = 0
        for name, given in providers:
            check_options(ort, name, given)
        if enable_fallback:
            raise Fault("ONNX Runtime would print, and go on without the provider")
        if any(name in ort.refused for name, _ in providers):
            raise RuntimeError(ort.refusal)
        self._real = onnxruntime.InferenceSession(onnx, providers=[CPU])
        self._loaded = [name for name, _ in providers if name not in (*ort.silent, CPU)]
        self._left = list(ort.left_to_cpu)
        if self._loaded[:1] == [CUDA] and "Shape" in read_onnx(onnx).operators:
            self._left.append(("sr_size", "Mul"))
        whole = self.settings.get("session.disable_cpu_ep_fallback") == "1"
        if whole and CPU in self.asked:
            raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Conflicting session configuration")
        if whole and (self._left or not self._loaded):
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : nodes that are assigned to the default CPU EP")

    def get_providers(self) -> list[str]:
        return [*self._loaded, CPU]

    def get_modelmeta(self) -> Any:
        return self._real.get_modelmeta()

    def __getattr__(self, name: str) -> Any:
        if name == "get_provider_graph_assignment_info" and self.ort.tells_placement:
            return self._placement
        raise AttributeError(name)

    def _placement(self) -> list[Any]:
        if self.settings.get("session.record_ep_graph_assignment_info") != "1":
            return []
        placed = [(self.get_providers()[0], "head", "Conv"), *((CPU, *node) for node in self._left)]
        return [Placed(where, [SimpleNamespace(name=name, op_type=kind)]) for where, name, kind in placed]

    def run(self, outputs: list[str] | None, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.plain_runs += 1
        found: list[NDArray[Any]] = self._real.run(outputs, feeds)
        return found

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding) -> None:
        if binding.session is not self or binding.lr is None:
            raise Fault("a binding of another session, or without an input")
        with alone(binding.lr.in_use, "two runs in the same memory"):
            (found,) = self._real.run(["sr"], {"lr": binding.lr.array})
        if not binding.sr_is_fixed or binding.sr is None:
            binding.sr = self.ort.allocate(found.shape, found.dtype)
        if (binding.sr.array.shape, binding.sr.array.dtype) != (found.shape, found.dtype):
            raise RuntimeError(f"OrtValue shape verification failed. Current shape:{binding.sr.array.shape}\n")
        binding.sr.array[...] = found
        binding.computed = binding.lr.version


class Placed:
    """Nodes that were given to one provider."""

    def __init__(self, ep_name: str, nodes: list[Any]) -> None:
        self.ep_name, self._nodes = ep_name, nodes

    def get_nodes(self) -> list[Any]:
        return self._nodes


@contextmanager
def alone(lock: threading.Lock, fault: str) -> Iterator[None]:
    """Hold a lock that nobody else may hold."""
    if not lock.acquire(blocking=False):
        raise Fault(fault)
    try:
        yield
    finally:
        lock.release()


def check_options(ort: OnnxRuntime, name: str, given: dict[str, Any]) -> None:
    """Fault for a provider that is not there, and for options that it does not have."""
    if name not in ort.available:
        raise Fault(f"ONNX Runtime would warn: it has no {name}")
    for key, value in given.items():
        if key not in OPTIONS[name]:
            raise Fault(f"{name} has no option {key}")
        values = OPTIONS[name][key].split()
        if values and str(value) not in values:
            raise Fault(f"{key} of {name} is not {value}")
        if key.endswith("_cache_path") and stat.S_IMODE(Path(value).stat().st_mode) != 0o700:
            raise Fault(f"{value} is not private")
    if name != CPU and given.get("device_id") != ort.device:
        raise Fault(f"{name} on GPU {given.get('device_id')}")
