"""Engines in TensorRT or TensorRT for RTX, run on a GPU: frames in flight in slots, CUDA graphs, pinned memory."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

from ..._errors import BackendError
from .config import Library
from .contexts import Engines, NotLoaded
from .cuda import Cuda, OutOfMemory, is_lost, keep_for_ever
from .slots import Batch, Slots, Ticket

SLOTS = 2
SHAPES = 4
"""Of how many shapes memory is kept; the longest unused goes first."""

Run = Callable[[Batch], Batch]
_Used = TypeVar("_Used")


class Plan(NamedTuple):
    """A serialised engine."""

    data: bytes
    """Its bytes: native code."""
    prove: Callable[[Run], None] = lambda run: None
    """Called with what runs a batch in it, before anything else is; raises BackendError to refuse it."""
    renew: Callable[[str], bool] = lambda why: False
    """Called with why it cannot be loaded: whether another is to be had for the asking."""


class TensorRtSession:
    """One graph on a GPU, in engines for the shapes that it meets. Safe to call from several threads.

    Each call leaves its thread on the session's GPU, which matters to other users of another GPU in that thread.
    """

    def __init__(
        self,
        library: Library,
        trt: ModuleType,
        cuda: Cuda,
        plan_for: Callable[[tuple[int, ...]], Plan],
        *,
        slots: int = SLOTS,
        graphs: bool = True,
        kernels: Path | None = None,
    ) -> None:
        """``plan_for`` gives the engine for a batch's shape, the same bytes for shapes that share one.

        It may take minutes, in which other shapes go on; they wait while it is loaded, warmed up and proven.
        ``graphs=False`` leaves CUDA graphs out. ``kernels``: file for what TensorRT for RTX compiles. Raises
        BackendError from ``submit`` on, when an engine is first needed.
        """
        self._cuda, self._plan_for = cuda, plan_for
        self.in_flight = slots
        """Number of batches in flight."""
        self.activation_bytes = cuda.memory // 8
        """Limit of the widest activation of one window, bytes."""
        self._lock, self._building = threading.Lock(), threading.Lock()
        self._shapes: dict[tuple[int, ...], tuple[str, Slots]] = {}
        self._fault = ""
        self._closed = False
        self._engines = Engines(library, trt, cuda, graphs=graphs, kernels=kernels)

    def run(self, batch: Batch) -> Batch:
        """See Session."""
        return self.submit(batch).result()

    def submit(self, batch: Batch) -> Ticket:
        """Start on ``batch`` (C-contiguous) and return at once; it may be changed afterwards. In order."""
        ticket = self._with_slots(batch, lambda slots: slots.submit(batch))
        ticket.session = weakref.ref(self)
        return ticket

    def bare_ms(self, batch: Batch, count: int) -> float:
        """Milliseconds of the engine alone for batches like this one, ``count`` in a row: what is left to win."""

        def use(slots: Slots) -> float:
            for _, each in self._shapes.values():
                each.settle()
            return slots.repeat(count)

        return self._with_slots(batch, use)

    def close(self) -> None:
        """Finish what is in flight, whose tickets keep their results, and free the GPU. Closing twice is fine."""
        if self._cuda.is_forked:
            keep_for_ever((self._shapes, self._engines))  # or dropping them would release the parent's
            return
        with self._lock:
            self._closed = True
            with contextlib.suppress(BackendError):
                self._cuda.select()
            self._drop(*self._shapes)
            self._engines.close()

    def __del__(self) -> None:
        if hasattr(self, "_engines"):
            with self._cuda.unselected():  # garbage is collected amid the work of others
                self.close()

    def _with_slots(self, batch: Batch, use: Callable[[Slots], _Used]) -> _Used:
        """``use`` the slots for batches like this one, alone."""
        self._cuda.refuse_if_forked()
        plan: Plan | None = None
        while True:
            with self._lock:
                if self._closed:
                    raise BackendError("this session is closed: load the model again")
                if self._fault:
                    advice = "" if is_lost(self._fault) else ": load the model again"
                    raise BackendError(f"the GPU failed before ({self._fault}){advice}")
                self._cuda.select()
                try:
                    slots = self._slots_of(batch, plan)
                except NotLoaded as error:
                    if plan is None or not plan.renew(error.why):
                        raise
                    slots = None
                if slots is not None:
                    try:
                        return use(slots)
                    except OutOfMemory:
                        raise
                    except BackendError as error:
                        self._fault = str(error)
                        raise
            with self._building:
                plan = self._plan_for(batch.shape)

    def _slots_of(self, batch: Batch, plan: Plan | None) -> Slots | None:
        """Those that there are, or new ones in the engine of ``plan``; None without either."""
        key = (*batch.shape, batch.dtype.num)
        if key in self._shapes:
            self._shapes[key] = self._shapes.pop(key)  # the latest last
        elif plan is None:
            return None
        else:
            while len(self._shapes) >= SHAPES:
                self._drop(next(iter(self._shapes)))
            try:
                self._shapes[key] = self._make(batch, plan)
            except OutOfMemory:
                if not self._shapes:
                    raise
            if key not in self._shapes:  # by now the error is gone, and the engine and context that it held
                self._drop(*self._shapes)
                self._shapes[key] = self._make(batch, plan)
        return self._shapes[key][1]

    def _make(self, batch: Batch, plan: Plan) -> tuple[str, Slots]:
        """New slots, proven, and the key of their engine."""
        try:
            engine = self._engines.load(plan.data)
            opener = self._engines.opener(engine, batch.shape, batch.dtype.name)
            slots = Slots(self._cuda, opener, batch, self.in_flight, self._engines.captures)
            try:
                plan.prove(lambda one: slots.submit(one).result())
                self._engines.write_kernels()
            except BaseException:
                slots.close()
                raise
        except BaseException:
            self._drop()
            raise
        return engine, slots

    def _drop(self, *keys: tuple[int, ...]) -> None:
        """Close the slots of some shapes, and drop the engines that no shape is left for."""
        for key in keys:
            self._shapes[key][1].close()
            del self._shapes[key]  # not if it was interrupted
        self._engines.keep(engine for engine, _ in self._shapes.values())
