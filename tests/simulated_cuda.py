"""A simulated GPU, to test harder against than a real one: late, in any order that is allowed, and unforgiving.

``Device`` stands in for ``cuda.bindings.runtime``; ``simulated_tensorrt`` runs engines on it. Work in a stream is done
later, when a ``choose`` function lets it or a wait demands it, in any order across streams that streams and
events allow. Memory is poisoned when it is set aside, when it is freed and when something is about to be written to it,
so that who reads too early reads nonsense. What a real GPU would only sometimes punish is a ``Fault`` here: wrong
pointers and sizes, freeing twice or under work in flight, use after free, an execution context in two streams at once,
calls that are illegal in a capture. ``check_empty`` finds what leaks.
"""

from __future__ import annotations

import enum
import weakref
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

GUARD = 64
HOST_POISON, DEVICE_POISON, FREED, CANARY = 0xA5, 0x5A, 0xDD, 0xC3
DEVICE_BASE = 1 << 44


class Fault(AssertionError):
    """Something that a real GPU may or may not punish."""


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class Kind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Mode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


class Attribute(enum.IntEnum):
    cudaDevAttrIntegrated = 18
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class Handle(int):
    """A stream, an event or a graph."""


class Block:
    """Memory with a guard on either side; what the GPU sees may have another address."""

    def __init__(self, size: int, poison: int) -> None:
        self.size, self.poison = size, poison
        self.bytes = np.full(size + 2 * GUARD, CANARY, np.uint8)
        self.view = self.bytes[GUARD : GUARD + size]
        self.view[:] = poison
        self.freed = False

    def check(self) -> None:
        if (self.bytes[:GUARD] != CANARY).any() or (self.bytes[GUARD + self.size :] != CANARY).any():
            raise Fault("written beyond the end of memory")
        if self.freed and (self.view != FREED).any():
            raise Fault("written after it was freed")


class Work:
    """One piece of work in a stream."""

    def __init__(self, name: str, do: Callable[[], None], uses: tuple[Any, ...] = ()) -> None:
        self.name, self.do, self.uses = name, do, uses


class Device:
    """The runtime's functions, each returning its error first."""

    cudaMemcpyKind, cudaStreamCaptureMode, cudaDeviceAttr, cudaError_t = Kind, Mode, Attribute, Error
    cudaStreamNonBlocking, cudaHostAllocMapped, cudaEventBlockingSync = 1, 2, 1

    def __init__(
        self,
        choose: Callable[[int], int],
        *,
        integrated: bool = False,
        devices: int = 1,
        fail: dict[str, int] | None = None,
        memory: int = 1 << 30,
    ) -> None:
        """``choose(n)`` picks one of 0 to n - 1; ``fail`` lets the n-th call of a function fail, counted from 1."""
        self.choose, self.integrated, self.devices, self.memory = choose, integrated, devices, memory
        self.fail = dict(fail or {})
        self.host: dict[int, Block] = {}
        self.mapped: dict[int, int] = {}
        self.device: dict[int, Block] = {}
        self.graveyard: list[Block] = []
        self.streams: dict[int, deque[Work]] = {}
        self.events: dict[int, int] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.execs: dict[int, list[Work]] = {}
        self.capturing: tuple[int, list[Work]] | None = None
        self.contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        self.running: dict[int, tuple[int, int]] = {}
        self.counter = 100
        self.now = 0.0
        self.calls: list[str] = []

    # What the tests ask

    def check_empty(self) -> None:
        """Fault if anything is still there, or if freed memory was written to."""
        left = {
            "host memory": self.host, "device memory": self.device, "streams": self.streams, "events": self.events,
            "graphs": self.graphs, "graph executables": self.execs, "contexts": list(self.contexts),
        }  # fmt: skip
        if leaks := {name: len(things) for name, things in left.items() if things}:
            raise Fault(f"leaked: {leaks}")
        for block in self.graveyard:
            block.check()

    # Time

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            self._shake()
            if name in self.fail:
                self.fail[name] -= 1
                if self.fail[name] == 0:
                    return Error.cudaErrorIllegalAddress, None
            result: tuple[Any, ...] = found(*arguments)
            self._shake()
            return result

        return call

    def _shake(self) -> None:
        """Do some of the work that waits, or none."""
        for _ in range(self.choose(4)):
            waiting = [stream for stream, works in self.streams.items() if works]
            if not waiting:
                return
            self._step(waiting[self.choose(len(waiting))])

    def _step(self, stream: int) -> None:
        work = self.streams[stream].popleft()
        self.now += 1 + self.choose(3)
        work.do()

    def enqueue(self, stream: int, work: Work) -> None:
        if self.capturing is not None and self.capturing[0] == stream:
            self.capturing[1].append(work)
        else:
            self._stream(stream).append(work)

    def _stream(self, stream: int) -> deque[Work]:
        if stream not in self.streams:
            raise Fault("a stream that is not there")
        return self.streams[stream]

    def _in_flight(self, thing: Any) -> bool:
        return any(thing in work.uses for works in self.streams.values() for work in works)

    def _handle(self, table: dict[int, Any], value: Any) -> Handle:
        self.counter += 1
        table[self.counter] = value
        return Handle(self.counter)

    def _refuse_in_capture(self, what: str) -> None:
        if self.capturing is not None:
            raise Fault(f"{what} while a stream is captured")

    # The GPU

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (Error.cudaSuccess, self.devices) if self.devices else (Error.cudaErrorNoDevice, None)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (Error.cudaSuccess if device < self.devices else Error.cudaErrorInvalidDevice,)

    def cudaDeviceGetAttribute(self, attribute: Attribute, device: int) -> tuple[Any, ...]:
        return Error.cudaSuccess, {18: int(self.integrated), 75: 8, 76: 7}[int(attribute)]

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return Error.cudaSuccess, SimpleNamespace(name=b"Simulated GPU\0\0")

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._free(), self.memory

    def _free(self) -> int:
        return self.memory - sum(block.size for block in self.device.values())

    # Memory

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        self._refuse_in_capture("cudaMalloc")
        if size > self._free():
            return Error.cudaErrorMemoryAllocation, None
        self.counter += 1
        address = DEVICE_BASE + (self.counter << 20)
        self.device[address] = Block(size, DEVICE_POISON)
        return Error.cudaSuccess, address

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        self._refuse_in_capture("cudaHostAlloc")
        block = Block(size, HOST_POISON)
        address = block.view.ctypes.data
        self.host[address] = block
        if flags & self.cudaHostAllocMapped:
            self.counter += 1
            self.mapped[DEVICE_BASE + (self.counter << 20)] = address
        return Error.cudaSuccess, address

    def cudaHostGetDevicePointer(self, pointer: int, flags: int) -> tuple[Any, ...]:
        found = [seen for seen, address in self.mapped.items() if address == pointer]
        return (Error.cudaSuccess, found[0]) if found else (Error.cudaErrorInvalidValue, None)

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:
        return self._release(self.device, pointer)

    def cudaFreeHost(self, pointer: int) -> tuple[Any, ...]:
        self.mapped = {seen: address for seen, address in self.mapped.items() if address != pointer}
        return self._release(self.host, pointer)

    def _release(self, table: dict[int, Block], pointer: int) -> tuple[Any, ...]:
        self._refuse_in_capture("freeing")
        if pointer not in table:
            raise Fault("freed twice, or never set aside")
        if self._in_flight(pointer) or any(pointer in uses for uses in self._addresses_in_use()):
            raise Fault("freed under work in flight")
        block = table.pop(pointer)
        block.check()
        block.freed = True
        block.view[:] = FREED
        self.graveyard.append(block)
        return (Error.cudaSuccess,)

    def _addresses_in_use(self) -> list[set[int]]:
        found = []
        for context in self.contexts:
            if self._in_flight(context):
                used = set(context.addresses.values())
                found.append(used | {self.mapped[address] for address in used if address in self.mapped})
        return found

    def block(self, address: int, size: int) -> NDArray[np.uint8]:
        """Memory as the GPU sees it."""
        address = self.mapped.get(address, address)
        found = self.device.get(address) or self.host.get(address)
        if found is None:
            raise Fault("the GPU used memory that is not there, or not its own")
        if size > found.size:
            raise Fault(f"the GPU used {size} bytes of {found.size}")
        return found.view[:size]

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Kind, stream: int) -> tuple[Any, ...]:
        down = kind == Kind.cudaMemcpyDeviceToHost
        ours, theirs = (target, source) if down else (source, target)
        if ours not in self.host or theirs not in self.device:
            raise Fault("a copy in the wrong direction, or of memory that is not there")
        if size > min(self.host[ours].size, self.device[theirs].size):
            raise Fault("a copy of more than there is")
        if down:
            self.host[ours].view[:size] = HOST_POISON

        def do() -> None:
            np.copyto(self.block(target, size), self.block(source, size))

        self.enqueue(stream, Work("copy", do, (target, source)))
        return (Error.cudaSuccess,)

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        if flags != self.cudaStreamNonBlocking:
            raise Fault("a stream that waits for the default one")
        return Error.cudaSuccess, self._handle(self.streams, deque())

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        if self._stream(stream):
            raise Fault("a stream was destroyed with work in it")
        del self.streams[stream]
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        self._refuse_in_capture("cudaStreamSynchronize")
        while self._stream(stream):
            self._step(stream)
        return (Error.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        if flags & 2:
            raise Fault("an event without time")
        return Error.cudaSuccess, self._handle(self.events, {"pending": 0, "stream": None, "time": None})

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        if event not in self.events:
            raise Fault("an event was destroyed twice")
        if self._in_flight(event):
            raise Fault("an event was destroyed under work in flight")
        del self.events[event]
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        state: Any = self.events[event]
        state["pending"] += 1
        state["stream"] = stream

        def do() -> None:
            state["pending"] -= 1
            state["time"] = self.now

        self.enqueue(stream, Work("record", do, (event,)))
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event: int) -> tuple[Any, ...]:
        self._refuse_in_capture("cudaEventSynchronize")
        state: Any = self.events[event]
        while state["pending"]:
            self._step(state["stream"])
        return (Error.cudaSuccess,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        first, last = self.events[start], self.events[end]
        states: tuple[Any, Any] = (first, last)
        if any(state["pending"] or state["time"] is None for state in states):
            raise Fault("the time of an event that has not come")
        return Error.cudaSuccess, states[1]["time"] - states[0]["time"]

    # Graphs

    def cudaStreamBeginCapture(self, stream: int, mode: Mode) -> tuple[Any, ...]:
        if mode != Mode.cudaStreamCaptureModeThreadLocal:
            raise Fault("a capture that other threads can spoil")
        if self.capturing is not None:
            raise Fault("a capture within a capture")
        self._stream(stream)
        self.capturing = (stream, [])
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        if self.capturing is None or self.capturing[0] != stream:
            raise Fault("the end of a capture that was not begun")
        works, self.capturing = self.capturing[1], None
        return Error.cudaSuccess, self._handle(self.graphs, works)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._handle(self.execs, list(self.graphs[graph]))

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        if self.graphs.pop(graph, None) is None:
            raise Fault("a graph was destroyed twice")
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        if self._in_flight(executable):
            raise Fault("a graph was destroyed in flight")
        if self.execs.pop(executable, None) is None:
            raise Fault("a graph executable was destroyed twice")
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        if executable not in self.execs:
            raise Fault("the launch of a graph that is not there")
        for work in self.execs[executable]:
            self.enqueue(stream, Work(work.name, work.do, (*work.uses, executable)))
        return (Error.cudaSuccess,)
