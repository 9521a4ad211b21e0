"""ONNX to engine, by the one strongly typed path that TensorRT 10.3 to 11.x and TensorRT for RTX share.

Precision comes from the ONNX file alone: a strongly typed network has no flag that could change it. Imports neither
torch nor onnx, for it runs on the device. ``build_process`` runs it in a process of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..._errors import BackendError, InputError
from .config import EngineConfig, Hardware, Library, Tiling
from .library import log_of, version_of

_TILING: dict[Tiling, str] = {"none": "NONE", "fast": "FAST", "moderate": "MODERATE", "full": "FULL"}
_HARDWARE: dict[Hardware, str] = {
    "this": "NONE",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
    "ampere-plus": "AMPERE_PLUS",
}

OnProgress = Callable[[str, int, int], None]
"""Hears of a phase's name, the steps done in it, and how many there are."""


@dataclass(frozen=True)
class Built:
    """An engine, and what its builder said of it."""

    engine: bytes
    """The serialised engine: native code."""
    layers: str
    """Layer report: an inspector's JSON, or the builder's own list; empty if there is none."""
    timing_cache: bytes
    """Timing cache: kernel timings for the next build on this GPU."""
    seconds: float
    """Time that it took."""
    lighter: str = ""
    """Why it was built with less than was asked for, and with what; empty if it was not."""


def check_config(library: Library, version: tuple[int, int], config: EngineConfig, precision: str) -> None:
    """InputError for options that this version of ``library`` has not, so that none is dropped in silence."""
    rtx, what = library == "tensorrt-rtx", f"{library} {version[0]}.{version[1]}"
    if config.sm and not rtx:
        raise InputError(f"{what} compiles for the GPU at hand only: compile there, or use tensorrt-rtx")
    if config.hardware != "this" and rtx:
        raise InputError(f"{what} has no hardware compatibility: compile for each GPU")
    if config.hardware == "same-compute-capability" and version < (10, 13):
        raise InputError(f"{what} has no same-compute-capability engines: 10.13 and later have")
    if config.tiling != "none" and not rtx and version < (10, 13):
        raise InputError(f"{what} has no tiling optimisation: 10.13 and later have")
    if config.dla is None:
        return
    if rtx:
        raise InputError(f"{what} runs on no DLA: use tensorrt on a Jetson")
    if (10, 7) < version < (11, 4):
        raise InputError(f"{what} has no DLA: TensorRT up to 10.7 and from 11.4 has")
    check_dla(config, precision)


def check_dla(config: EngineConfig, precision: str) -> None:
    """InputError for what no DLA runs."""
    if precision != "fp16":
        raise InputError(f"a DLA runs FP16 alone, not the {precision} graph: choose fp16, or the GPU")
    if config.profiles[1:] or not config.profiles[0].is_static:
        raise InputError("a DLA takes one shape: name one size and no profile")


def build(
    library: Library,
    trt: ModuleType,
    onnx: bytes,
    config: EngineConfig,
    *,
    precision: str,
    timing_cache: bytes = b"",
    free_memory: int | None = None,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> Built:
    """Compile ``onnx``. ``free_memory``: bytes free on the GPU, which the workspace must not exceed half of.

    Raises InputError for options that the version has not, BackendError, naming the ONNX node, for a graph that it
    does not take.
    """
    check_config(library, version_of(trt), config, precision)
    start = time.monotonic()
    log = log_of(trt)
    log.fault = log.layers = ""
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        raise BackendError(_parser_fault(library, parser))
    builder_config = builder.create_builder_config()
    builder_config.clear_flag(trt.BuilderFlag.TF32)  # FP32 means FP32
    builder_config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    monitor = _make_monitor(trt, on_progress)
    builder_config.progress_monitor = monitor
    _set_options(library, trt, builder, builder_config, config, free_memory)
    _set_profiles(builder, builder_config, network, config)
    if library == "tensorrt":
        known = builder_config.create_timing_cache(timing_cache) or builder_config.create_timing_cache(b"")
        builder_config.set_timing_cache(known, False)
    made = builder.build_serialized_network(network, builder_config)
    if made is None:
        short = config.workspace_mib and re.search("OutOfMemory|workspace", log.fault, re.IGNORECASE)
        more = ": give more --workspace" if short else ""
        raise BackendError(f"{library} built no engine ({log.fault or 'it did not say why'}){more}")
    engine = bytes(made)
    if library == "tensorrt":
        timing_cache = bytes(builder_config.get_timing_cache().serialize())
        log.layers = _inspect(trt, log, engine)
    return Built(engine, log.layers, timing_cache, time.monotonic() - start)


def _set_options(
    library: Library,
    trt: ModuleType,
    builder: Any,
    builder_config: Any,
    config: EngineConfig,
    free_memory: int | None,
) -> None:
    builder_config.builder_optimization_level = config.optimization_level
    limits = [] if free_memory is None else [free_memory // 2]
    limits += [] if config.workspace_mib is None else [config.workspace_mib << 20]
    if limits:
        builder_config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, min(limits))
    if config.aux_streams is not None:
        builder_config.max_aux_streams = config.aux_streams
    if config.tiling != "none":
        builder_config.tiling_optimization_level = getattr(trt.TilingOptimizationLevel, _TILING[config.tiling])
        if config.l2_limit_mib is not None:
            builder_config.l2_limit_for_tiling = config.l2_limit_mib << 20
    if config.hardware != "this":
        level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[config.hardware])
        builder_config.hardware_compatibility_level = level
    if config.dla is not None:
        if config.dla >= builder.num_DLA_cores:
            raise InputError(f"there is no DLA {config.dla}: this machine has {builder.num_DLA_cores}")
        builder_config.default_device_type = trt.DeviceType.DLA
        builder_config.DLA_core = config.dla
        builder_config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if library == "tensorrt-rtx":
        builder_config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # which CUDA graphs need
        names = [f"SM{sm}" for sm in config.sm] or ["CURRENT"]
        builder_config.num_compute_capabilities = len(names)
        for i, name in enumerate(names):
            capability = getattr(trt.ComputeCapability, name, None)
            if capability is None:
                raise InputError(f"{library} {trt.__version__} does not compile for {name}")
            builder_config.set_compute_capability(capability, i)


def _set_profiles(builder: Any, builder_config: Any, network: Any, config: EngineConfig) -> None:
    lr = network.get_input(0)
    channels_last = lr.shape[-1] == 3
    for found in config.profiles:
        shapes = ((s.batch, s.height, s.width, 3) for s in (found.least, found.best, found.most))
        profile = builder.create_optimization_profile()
        profile.set_shape(lr.name, *(s if channels_last else (s[0], 3, *s[1:3]) for s in shapes))
        if builder_config.add_optimization_profile(profile) < 0:
            raise BackendError(f"TensorRT refused the shapes {found}")


def _parser_fault(library: Library, parser: Any) -> str:
    if not parser.num_errors:
        return f"{library} cannot read the ONNX file"
    error = parser.get_error(0)
    where = "the graph"
    if error.node_operator():
        where = f"{error.node_operator()} node {error.node_name() or f'{error.node()} (it has no name)'}"
    return f"{library} does not take {where}: {error.desc()}"


def _inspect(trt: ModuleType, log: Any, engine: bytes) -> str:
    runtime = trt.Runtime(log)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise BackendError(f"the engine cannot be loaded on this GPU: {log.fault or 'TensorRT did not say why'}")
    found: str = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return found


def _make_monitor(trt: ModuleType, on_progress: OnProgress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        """Reports the phases that have no parent; the others come and go too quickly to read."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.steps[phase_name] = num_steps
                on_progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                on_progress(phase_name, step + 1, self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                on_progress(phase_name, self.steps[phase_name], self.steps[phase_name])

    return Monitor()
