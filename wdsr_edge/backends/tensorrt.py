"""Engines in TensorRT or TensorRT for RTX, run on a GPU: frames in flight in slots, CUDA graphs, pinned memory.

A shape has two or more slots. A slot has a stream, an execution context, memory, and events for began, uploaded,
computed and downloaded. A frame takes the next slot in turn; if that still holds a frame, its result is fetched first,
so that nothing is overwritten. On GPUs that share the CPU's memory, the engine reads and writes pinned memory itself.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import BackendError
from ._cuda import Cuda, Resources
from .engine_config import Library
from .tensorrt_library import make_log

SLOTS = 2
SHAPES = 4
"""Of how many shapes memory is kept; the longest unused goes first."""

_LOG = logging.getLogger("wdsr_edge")

Batch = NDArray[Any]


@dataclass(frozen=True)
class Timing:
    """How long the parts of one frame took on the GPU, ms."""

    upload_ms: float
    """Host to device; 0 where memory is shared."""
    compute_ms: float
    """The engine; with several frames in flight, what others took of the GPU meanwhile included."""
    download_ms: float
    """Device to host; 0 where memory is shared."""


class Ticket:
    """A batch on its way."""

    def __init__(self, slot: _Slot) -> None:
        self._slot: _Slot | None = slot
        self._lock = threading.Lock()
        self._found: Batch | None = None
        self._fault = ""
        self.timing: Timing | None = None
        """Once there is a result."""

    def result(self) -> Batch:
        """The enlarged batch, which belongs to the caller; waits for it. Raises BackendError if the GPU failed."""
        with self._lock:
            if self._slot is not None:
                try:
                    self._found, self.timing = self._slot.fetch()
                except BackendError as error:
                    self._fault = str(error)  # the error itself would keep the slot
                self._slot = None  # not if it was interrupted
        if self._found is None:
            raise BackendError(self._fault)
        return self._found

    def settle(self) -> None:
        """Fetch the result, or the error, so that the slot is free."""
        try:
            self.result()
        except BackendError:
            return


class TensorRtSession:
    """One graph on a GPU, in engines for the shapes that it meets. Safe to call from several threads."""

    def __init__(
        self,
        library: Library,
        trt: ModuleType,
        cuda: Cuda,
        engine_for: Callable[[tuple[int, ...]], bytes],
        *,
        slots: int = SLOTS,
        graphs: bool = True,
    ) -> None:
        """``engine_for`` gives the serialised engine for a batch's shape, the same bytes for shapes that share one.

        ``graphs=False`` leaves CUDA graphs out. Raises BackendError from ``submit`` on, when an engine is first needed.
        """
        self._library, self._trt, self._cuda = library, trt, cuda
        self._engine_for = engine_for
        self._slots, self._graphs = slots, graphs
        self._lock = threading.Lock()
        self._shapes: dict[tuple[int, ...], _Shape] = {}
        self._engines: dict[bytes, Any] = {}
        self._fault = ""
        self._closed = False
        self._log = make_log(trt)
        self._runtime = trt.Runtime(self._log)

    def run(self, batch: Batch) -> Batch:
        """See Session."""
        return self.submit(batch).result()

    def submit(self, batch: Batch) -> Ticket:
        """Start on ``batch`` (C-contiguous) and return at once; it may be changed afterwards. In order."""
        with self._lock:
            if self._closed:
                raise BackendError("this session is closed: load the model again")
            if self._fault:
                raise BackendError(f"the GPU failed before ({self._fault}): load the model again")
            self._cuda.select()
            shape = self._shape_of(batch)
            try:
                return shape.submit(batch)
            except BackendError as error:
                self._fault = str(error)
                raise

    def close(self) -> None:
        """Finish what is in flight, whose tickets keep their results, and free the GPU. Closing twice is fine."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(BackendError):
                self._cuda.select()
            for shape in self._shapes.values():
                shape.close()
            self._shapes.clear()
            self._engines.clear()  # contexts are gone, now engines, and last of all the runtime
            self._runtime = None

    def __del__(self) -> None:
        if hasattr(self, "_runtime"):
            self.close()

    def _shape_of(self, batch: Batch) -> _Shape:
        key = (*batch.shape, batch.dtype.num)
        if key in self._shapes:
            self._shapes[key] = self._shapes.pop(key)  # the latest last
            return self._shapes[key]
        while len(self._shapes) >= SHAPES:
            oldest = next(iter(self._shapes))
            self._shapes.pop(oldest).close()
        engine = self._load(self._engine_for(batch.shape))
        made = _Shape(
            self._cuda, self._contexts(engine, batch.shape, batch.dtype.name), batch, self._graphs, self._is_capturable
        )
        self._shapes[key] = made
        return made

    def _load(self, engine: bytes) -> Any:
        if engine not in self._engines:
            loaded = self._runtime.deserialize_cuda_engine(engine)
            if loaded is None:
                why = self._log.fault or "it is for another GPU or version"
                raise BackendError(f"the engine cannot be loaded ({why}): build it again on this machine")
            self._engines[engine] = loaded
        return self._engines[engine]

    def _contexts(self, engine: Any, shape: tuple[int, ...], dtype: str) -> list[Any]:
        """One for each slot, with the input shape set."""
        trt = self._trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        modes = [engine.get_tensor_mode(name) for name in names]
        if sorted(map(str, modes)) != sorted(map(str, (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT))):
            raise BackendError(
                f"the engine has the inputs and outputs {', '.join(names)}, not one of each: build it again"
            )
        wanted = {"uint8": trt.DataType.UINT8, "float32": trt.DataType.FLOAT}[dtype]
        if any(engine.get_tensor_dtype(name) != wanted for name in names):
            raise BackendError(f"the engine takes or makes no {dtype}: build it from the graph for {dtype}")
        lr = names[modes.index(trt.TensorIOMode.INPUT)]
        index = _profile_of(engine, lr, shape)
        contexts = []
        for _ in range(self._slots):
            context = engine.create_execution_context()
            if context is None:
                raise BackendError(f"no execution context ({self._log.fault or 'as a rule the memory is full'})")
            with ExitStack() as stack:
                resources = Resources(self._cuda)
                stack.callback(resources.close)
                stream = resources.stream()
                if not context.set_optimization_profile_async(index, int(stream)):
                    raise BackendError(f"the engine refused its profile {index}: {self._log.fault}")
                self._cuda.call("cudaStreamSynchronize", stream)
            if not context.set_input_shape(lr, shape):
                raise BackendError(f"the engine refused {shape}: {self._log.fault}")
            contexts.append(_Context(context, lr, names[modes.index(trt.TensorIOMode.OUTPUT)]))
        return contexts

    def _is_capturable(self, context: Any, stream: Any) -> bool:
        """Only TensorRT for RTX can tell beforehand."""
        return self._library != "tensorrt-rtx" or bool(context.is_stream_capturable(int(stream)))


@dataclass
class _Context:
    """An execution context, and the names of its input and output."""

    context: Any
    lr: str
    sr: str

    def enqueue(self, stream: Any) -> None:
        if not self.context.execute_async_v3(int(stream)):
            raise BackendError("the engine could not be started: load the model again")


class _Shape:
    """The slots of one shape. Their memory is set aside once."""

    def __init__(
        self,
        cuda: Cuda,
        contexts: list[_Context],
        batch: Batch,
        graphs: bool,
        capturable: Callable[[Any, Any], bool],
    ) -> None:
        self._cuda = cuda
        self._slots: list[_Slot] = []
        self._next = 0
        try:
            for context in contexts:
                self._slots.append(_Slot(cuda, context, batch))
            for slot in self._slots:
                slot.warm_up(graphs, capturable)
        except BaseException:
            self.close()
            raise

    def submit(self, batch: Batch) -> Ticket:
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        return slot.submit(batch)

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self._slots.clear()


class _Slot:
    """One batch in flight."""

    def __init__(self, cuda: Cuda, context: _Context, batch: Batch) -> None:
        self._cuda, self._context = cuda, context
        self._resources = Resources(cuda)
        self._ticket: Ticket | None = None
        self._graph: Any = None
        try:
            self._stream = self._resources.stream()
            self._began, self._uploaded, self._computed, self._downloaded = (self._resources.event() for _ in range(4))
            shape = tuple(context.context.get_tensor_shape(context.sr))
            if len(shape) != 4 or min(shape) < 1:
                raise BackendError(f"the engine makes {shape} of {batch.shape}: build it again")
            size = int(np.prod(shape)) * batch.itemsize
            self._host_lr, seen_lr = self._resources.pinned(batch.nbytes)
            self._host_sr, seen_sr = self._resources.pinned(size)
            self._lr = seen_lr if cuda.integrated else self._resources.device(batch.nbytes)
            self._sr = seen_sr if cuda.integrated else self._resources.device(size)
            self._shape, self._dtype = shape, batch.dtype
            for name, address in ((context.lr, self._lr), (context.sr, self._sr)):
                if not context.context.set_tensor_address(name, address):
                    raise BackendError(f"the engine refused an address for {name}")
        except BaseException:
            self._resources.close()
            raise

    def warm_up(self, graph: bool, capturable: Callable[[Any, Any], bool]) -> None:
        """Run once, which sets up what depends on the shape, and capture the next run."""
        self._host_lr[:] = 0
        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")
        self._context.enqueue(self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        if not graph:
            return
        if not capturable(self._context.context, self._stream):
            _LOG.warning("this engine cannot be captured in a CUDA graph: frames start more slowly")
            return
        try:
            self._graph = self._resources.graph(self._stream, lambda: self._context.enqueue(self._stream))
        except BackendError as error:
            _LOG.warning("no CUDA graph (%s): frames start more slowly", str(error))

    def submit(self, batch: Batch) -> Ticket:
        if self._ticket is not None:
            self._ticket.settle()
        self._host_lr[:] = np.ascontiguousarray(batch).reshape(-1).view(np.uint8)
        self._record(self._began)
        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")
        self._record(self._uploaded)
        if self._graph is None:
            self._context.enqueue(self._stream)
        else:
            self._cuda.call("cudaGraphLaunch", self._graph, self._stream)
        self._record(self._computed)
        self._copy(self._host_sr, self._sr, "cudaMemcpyDeviceToHost")
        self._record(self._downloaded)
        self._ticket = Ticket(self)
        return self._ticket

    def fetch(self) -> tuple[Batch, Timing]:
        """What the batch in flight has become."""
        self._cuda.select()
        self._cuda.call("cudaEventSynchronize", self._downloaded)
        parts = (self._began, self._uploaded, self._computed, self._downloaded)
        times = [float(self._cuda.call("cudaEventElapsedTime", *pair)) for pair in pairwise(parts)]
        timing = Timing(0, sum(times), 0) if self._cuda.integrated else Timing(*times)
        return self._host_sr.view(self._dtype).reshape(self._shape).copy(), timing

    def close(self) -> None:
        """Wait, and free what the slot has; the ticket keeps the result."""
        if self._ticket is not None:
            self._ticket.settle()
        try:
            self._cuda.call("cudaStreamSynchronize", self._stream)
        except BackendError as error:
            _LOG.warning("while a slot was closed: %s", str(error))
        del self._host_lr, self._host_sr
        self._resources.close()

    def _copy(self, target: NDArray[np.uint8] | int, source: NDArray[np.uint8] | int, kind: str) -> None:
        """Between pinned memory and the GPU's, unless they are one."""
        if self._cuda.integrated:
            return
        size = next(side.nbytes for side in (target, source) if isinstance(side, np.ndarray))
        addresses = (side if isinstance(side, int) else side.ctypes.data for side in (target, source))
        way = getattr(self._cuda.runtime.cudaMemcpyKind, kind)
        self._cuda.call("cudaMemcpyAsync", *addresses, size, way, self._stream)

    def _record(self, event: Any) -> None:
        self._cuda.call("cudaEventRecord", event, self._stream)


def _profile_of(engine: Any, name: str, shape: tuple[int, ...]) -> int:
    """The first optimisation profile that takes ``shape``."""
    for index in range(engine.num_optimization_profiles):
        least, _, most = engine.get_tensor_profile_shape(name, index)
        if all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True)):
            return index
    raise BackendError(f"the engine does not take {shape}: compile one that does")
