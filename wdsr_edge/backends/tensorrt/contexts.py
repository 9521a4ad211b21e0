"""Engines in memory, and their execution contexts, in TensorRT and in TensorRT for RTX.

A context gets the memory that its one shape needs, from us: left to itself, it takes what an engine's largest profile
needs. TensorRT for RTX compiles kernels when it first meets a shape; they are kept in a file, it waits for them instead
of running slower ones until they are there, and it captures CUDA graphs by itself. (NVIDIA, TensorRT for RTX: "Working
with Runtime Cache", "Working with RTX CUDA Graphs".)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..._errors import BackendError, InputError
from ..._files import replacing
from .config import Library
from .cuda import Cuda, OutOfMemory, Resources
from .library import log_of

_LOG = logging.getLogger("wdsr_edge")

_TRY_AGAIN = "load the model again; if it stays, restart the program"


@dataclass
class Context:
    """An execution context for one shape, with the memory that it needs."""

    context: Any
    """TensorRT's."""
    lr: str
    """The name of its input."""
    sr: str
    """The name of its output."""
    sr_shape: tuple[int, ...]
    """Shape of its output."""
    log: Any
    """TensorRT's."""

    def bind(self, lr: int, sr: int) -> None:
        """Read from address ``lr`` and write to ``sr``, both as the GPU sees them."""
        for name, address in ((self.lr, lr), (self.sr, sr)):
            if not self.context.set_tensor_address(name, address):
                raise BackendError(f"the engine refused an address for {name}")

    def enqueue(self, stream: Any) -> None:
        """Put one run into ``stream``."""
        faults = self.log.listen()
        if not self.context.execute_async_v3(int(stream)):
            why = "; ".join(faults) or "TensorRT did not say why"
            raise (OutOfMemory if _is_full(why) else BackendError)(
                f"the engine could not be started ({why}): {_TRY_AGAIN}"
            )


class NotLoaded(BackendError):
    """TensorRT does not take a serialised engine, usually since it is of another version or for another GPU."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the engine cannot be loaded ({why}): build it again on this machine")
        self.why = why


OpenContext = Callable[[Resources, Any], Context]
"""Makes a context out of its owner's resources and stream."""


class Engines:
    """TensorRT objects of a session: a runtime, and the engines that it loaded."""

    def __init__(self, library: Library, trt: ModuleType, cuda: Cuda, *, graphs: bool, kernels: Path | None) -> None:
        """``kernels``: where TensorRT for RTX keeps what it compiled, in a folder of the owner's alone."""
        self._library, self._trt, self._cuda = library, trt, cuda
        self._graphs = graphs
        self._log = log_of(trt)
        self._runtime: Any = trt.Runtime(self._log)
        self._loaded: dict[str, Any] = {}
        self._kernels_file = kernels
        self._kernels: Any = None
        self._kept = b""

    @property
    def captures(self) -> bool:
        """True if CUDA graphs are left to the session."""
        return self._graphs and self._library != "tensorrt-rtx"

    def load(self, plan: bytes) -> str:
        """Load a serialised engine, unless it is there already: its key, for ``opener`` and ``keep``."""
        key = hashlib.sha256(plan).hexdigest()
        if key not in self._loaded:
            faults = self._log.listen()
            loaded = self._runtime.deserialize_cuda_engine(plan)
            if loaded is None:
                why = "; ".join(faults) or "it is for another GPU or version"
                if _is_full(why):
                    raise OutOfMemory(f"the engine cannot be loaded ({why}): close what else uses the GPU")
                if re.search("cuda ?(runtime|driver|error|failure)", why, re.IGNORECASE):
                    raise BackendError(f"the engine cannot be loaded ({why}): {_TRY_AGAIN}")
                raise NotLoaded(why)
            self._loaded[key] = loaded
        return key

    def keep(self, keys: Iterable[str]) -> None:
        """Drop the engines that are none of ``keys``; their contexts must be gone."""
        kept = {*keys}
        self._loaded = {key: engine for key, engine in self._loaded.items() if key in kept}

    def close(self) -> None:
        """Drop all: contexts must be gone, then engines go, then kernels, and last the runtime."""
        self._loaded.clear()
        self._kernels = None
        self._runtime = None

    def opener(self, key: str, shape: tuple[int, ...], dtype: str) -> OpenContext:
        """Opener of contexts of an engine for batches of ``shape``; BackendError if it does not take them."""
        trt, engine = self._trt, self._loaded[key]
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        modes = [engine.get_tensor_mode(name) for name in names]
        if sorted(map(str, modes)) != sorted(map(str, (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT))):
            raise BackendError(
                f"the engine has the inputs and outputs {', '.join(names)}, not one of each: build it again"
            )
        wanted = {"uint8": trt.DataType.UINT8, "float32": trt.DataType.FLOAT}[dtype]
        if any(engine.get_tensor_dtype(name) != wanted for name in names):
            raise BackendError(f"the engine takes or makes no {dtype}: build it from the graph for {dtype}")
        lr, sr = (names[modes.index(mode)] for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT))
        profile = _profile_of(engine, lr, shape)
        return lambda resources, stream: self._open(engine, profile, lr, sr, shape, resources, stream)

    def _open(
        self, engine: Any, profile: int, lr: str, sr: str, shape: tuple[int, ...], resources: Resources, stream: Any
    ) -> Context:
        """The order is NVIDIA's: profile, input shape, memory for them, addresses."""
        faults = self._log.listen()
        context = engine.create_execution_context(self._strategy(engine))
        if context is None:
            raise OutOfMemory(f"no execution context ({'; '.join(faults) or 'usually the memory is full'})")
        if not context.set_optimization_profile_async(profile, int(stream)):
            raise BackendError(f"the engine refused its profile {profile}: {'; '.join(faults)}")
        self._cuda.call("cudaStreamSynchronize", stream)
        if not context.set_input_shape(lr, shape):
            raise BackendError(f"the engine refused {shape}: {'; '.join(faults)}")
        size = int(context.update_device_memory_size_for_shapes())
        if size:
            context.set_device_memory(resources.device(size), size)
        made = tuple(context.get_tensor_shape(sr))
        if len(made) != 4 or min(made) < 1:
            raise BackendError(f"the engine makes {made} of {shape}: build it again")
        return Context(context, lr, sr, made, self._log)

    def _strategy(self, engine: Any) -> Any:
        """Our memory, and what else TensorRT for RTX is to do at run time."""
        trt = self._trt
        ours = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._library != "tensorrt-rtx":
            return ours
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        wanted = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if self._graphs else trt.CudaGraphStrategy.DISABLED
        config.cuda_graph_strategy = wanted
        if config.cuda_graph_strategy != wanted:
            _LOG.warning("TensorRT for RTX takes no CUDA graphs here: frames start more slowly")
        if self._kernels_file is not None:
            if self._kernels is None:
                self._kernels = config.create_runtime_cache()
                self._read_kernels(self._kernels_file)
            if config.set_runtime_cache(self._kernels) is False:
                _LOG.warning("TensorRT for RTX does not take its kernels from a file: it compiles them each time")
        return config

    def _read_kernels(self, file: Path) -> None:
        """Read cached kernels; TensorRT for RTX refuses those for another GPU or version, and compiles again."""
        try:
            self._kept = file.read_bytes()
        except OSError:
            return
        with contextlib.suppress(OSError):
            os.utime(file)  # or it counts as long unused
        if not self._kernels.deserialize(self._kept):
            self._kept = b""

    def write_kernels(self) -> None:
        """Keep what TensorRT for RTX has compiled since the last time."""
        if self._kernels is None or self._kernels_file is None:
            return
        found = bytes(self._kernels.serialize() or b"")
        if found not in (b"", self._kept):
            self._kept = found
            try:
                with replacing(self._kernels_file) as fresh:
                    fresh.write_bytes(found)
            except InputError as error:
                _LOG.warning("compiled kernels are not kept: %s", str(error))  # the error itself would keep the engine


def _is_full(why: str) -> bool:
    return re.search("out ?of ?memory", why, re.IGNORECASE) is not None


def _profile_of(engine: Any, name: str, shape: tuple[int, ...]) -> int:
    """The first optimisation profile that takes ``shape``."""
    for index in range(engine.num_optimization_profiles):
        least, _, most = engine.get_tensor_profile_shape(name, index)
        if len(least) == len(shape) and all(
            low <= side <= high for low, side, high in zip(least, shape, most, strict=True)
        ):
            return index
    raise BackendError(f"the engine does not take {shape}: compile one that does")
