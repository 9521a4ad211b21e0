"""Batches in flight on a GPU: slots, each with a stream, an execution context, memory and events of its own.

A shape has two or more slots. A batch takes the next slot in turn; if that still holds a batch, its result is fetched
first, so that nothing is overwritten. On GPUs that share the CPU's memory, the engine reads and writes pinned memory
itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._errors import BackendError
from .contexts import Context, OpenContext
from .cuda import Cuda, Resources

_LOG = logging.getLogger("wdsr_edge")

Batch = NDArray[Any]


@dataclass(frozen=True)
class Timing:
    """Times of the parts of one batch on the GPU, ms."""

    upload_ms: float
    """Host to device; 0 where memory is shared."""
    compute_ms: float
    """The engine; with several batches in flight, what others took of the GPU meanwhile included."""
    download_ms: float
    """Device to host; 0 where memory is shared."""


class Ticket:
    """A batch on its way."""

    def __init__(self, slot: Slot, cuda: Cuda) -> None:
        self._slot: Slot | None = slot
        self._cuda = cuda
        self._lock = threading.Lock()
        self._found: Batch | None = None
        self._fault = ""
        self.timing: Timing | None = None
        """Once there is a result."""
        self.session: Callable[[], object] = lambda: None
        """The batch of this ticket, if it still exists."""

    def result(self) -> Batch:
        """The enlarged batch, which belongs to the caller; waits for it. Raises BackendError if the GPU failed."""
        if self._slot is not None:
            self._cuda.refuse_if_forked()  # another thread of the parent may have the lock for ever
        _session = self.session()  # or it may be collected, and closed, in here, which would wait for this
        with self._lock:
            if self._slot is not None:
                try:
                    self._found, self.timing = self._slot.fetch()
                except BackendError as error:
                    self._fault = str(error)  # the error itself would keep the slot
                self._slot.settled()
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

    def give_up(self, why: str) -> None:
        """There will be no result."""
        self._fault, self._slot = why, None


class Slots:
    """The slots of one shape. Their memory is set aside once."""

    def __init__(self, cuda: Cuda, open_context: OpenContext, batch: Batch, count: int, graphs: bool) -> None:
        """``count`` slots for batches like ``batch``; with ``graphs`` each run is captured in a CUDA graph."""
        self._slots: list[Slot] = []
        self._next = 0
        try:
            for _ in range(count):
                self._slots.append(Slot(cuda, open_context, batch))
            for slot in self._slots:
                slot.warm_up(graphs)
        except BaseException:
            self.close()
            raise

    def submit(self, batch: Batch) -> Ticket:
        """Start on ``batch`` in the next slot."""
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        return slot.submit(batch)

    def repeat(self, count: int) -> float:
        """Milliseconds on the GPU of one run, on average over ``count`` in a row: no copies, no waiting between."""
        return self._slots[0].repeat(count)

    def settle(self) -> None:
        """Fetch what is in flight; tickets keep it."""
        for slot in self._slots:
            slot.settle()

    def close(self) -> None:
        """Wait for what is in flight, whose tickets keep their results, and free everything."""
        while self._slots:
            self._slots[-1].close()
            self._slots.pop()  # not if it was interrupted


class Slot:
    """One batch in flight."""

    def __init__(self, cuda: Cuda, open_context: OpenContext, batch: Batch) -> None:
        """For batches like ``batch``."""
        self._cuda = cuda
        self._resources = Resources(cuda)
        self._ticket: Ticket | None = None
        self._graph: Any = None
        try:
            self._stream = self._resources.stream()
            self._context: Context | None = open_context(self._resources, self._stream)
            self._began, self._uploaded, self._computed, self._downloaded = (self._resources.event() for _ in range(4))
            self._shape, self._dtype = self._context.sr_shape, batch.dtype
            size = int(np.prod(self._shape)) * batch.itemsize
            self._host_lr, seen_lr = self._resources.pinned(batch.nbytes)
            self._host_sr, seen_sr = self._resources.pinned(size)
            self._lr = seen_lr if cuda.integrated else self._resources.device(batch.nbytes)
            self._sr = seen_sr if cuda.integrated else self._resources.device(size)
            self._context.bind(self._lr, self._sr)
        except BaseException:
            self._context = None
            self._resources.close()
            raise

    def warm_up(self, graph: bool) -> None:
        """Run once, which sets up what depends on the shape, and capture the next run."""
        self._host_lr[:] = 0
        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")
        self._enqueue()
        self._cuda.call("cudaStreamSynchronize", self._stream)
        if not graph:
            return
        try:
            self._graph = self._resources.graph(self._stream, self._enqueue)
        except BackendError as error:
            _LOG.warning("no CUDA graph (%s): frames start more slowly", str(error))
        self._cuda.call("cudaStreamSynchronize", self._stream)

    def submit(self, batch: Batch) -> Ticket:
        """Start on ``batch``, once the one before it in this slot was fetched."""
        self.settle()
        self._host_lr[:] = np.ascontiguousarray(batch).reshape(-1).view(np.uint8)
        self._record(self._began)
        self._copy(self._lr, self._host_lr, "cudaMemcpyHostToDevice")
        self._record(self._uploaded)
        self._start()
        self._record(self._computed)
        self._copy(self._host_sr, self._sr, "cudaMemcpyDeviceToHost")
        self._record(self._downloaded)
        self._ticket = Ticket(self, self._cuda)
        return self._ticket

    def settle(self) -> None:
        """Fetch what the batch in flight, if there is one, has become: its ticket keeps that."""
        ticket = self._ticket  # which another thread may be done with
        if ticket is not None:
            ticket.settle()

    def settled(self) -> None:
        """The ticket has the result, and the slot need not keep it as well."""
        self._ticket = None

    def fetch(self) -> tuple[Batch, Timing]:
        """Outcome of the batch in flight."""
        self._cuda.select()
        self._cuda.call("cudaEventSynchronize", self._downloaded)
        times = [self._elapsed(*pair) for pair in pairwise((self._began, self._uploaded, self._computed))]
        times.append(self._elapsed(self._computed, self._downloaded))
        timing = Timing(0, sum(times), 0) if self._cuda.integrated else Timing(*times)
        return self._host_sr.view(self._dtype).reshape(self._shape).copy(), timing

    def repeat(self, count: int) -> float:
        """See Slots."""
        self._record(self._began)
        for _ in range(count):
            self._start()
        self._record(self._computed)
        self._cuda.call("cudaEventSynchronize", self._computed)
        return self._elapsed(self._began, self._computed) / count

    def close(self) -> None:
        """Wait, and free what the slot has; the ticket keeps the result."""
        if self._context is None:
            return  # an interrupted one frees the rest all the same
        ticket = self._ticket
        try:
            self.settle()
        except MemoryError:  # for a copy of the result: all the more reason to free some
            assert ticket is not None
            ticket.give_up("the memory is full: the frame is lost")
        try:
            self._cuda.call("cudaStreamSynchronize", self._stream)
        except BackendError as error:
            _LOG.warning("while a slot was closed: %s", str(error))
        self._context = None
        del self._host_lr, self._host_sr
        self._resources.close()

    def _start(self) -> None:
        """Put one run into the stream."""
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.call("cudaGraphLaunch", self._graph, self._stream)

    def _enqueue(self) -> None:
        assert self._context is not None
        self._context.enqueue(self._stream)

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

    def _elapsed(self, start: Any, end: Any) -> float:
        return float(self._cuda.call("cudaEventElapsedTime", start, end))
