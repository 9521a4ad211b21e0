"""A simulated GPU, to test harder against than a real one: late, in any order that is allowed, and unforgiving.

``Device`` stands in for ``cuda.bindings.runtime``; ``simulated_tensorrt`` runs engines on it. Work in a stream is done
later, when a ``choose`` function lets it or a wait demands it, in any order across streams that streams and
events allow. Memory is poisoned when it is set aside, when it is freed and when something is about to be written to it,
so that who reads too early reads nonsense. What a real GPU would only sometimes punish is a ``Fault`` here: wrong
pointers and sizes, freeing twice or under work in flight, use after free, what belongs to one GPU used while another is
current. A capture is spoiled by what its own thread must not do meanwhile, and after a sticky error every call gives
that error. ``check_empty`` finds what leaks, and Faults that were swallowed.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from tests.cuda_names import STICKY, Attribute, Error, Kind, Mode
from tests.simulated_parts import (
    DEVICE_POISON,
    FREED,
    HOST_POISON,
    Block,
    Capture,
    Event,
    Fault,
    Graph,
    Handle,
    Stream,
    Work,
)

DEVICE_BASE = 1 << 44
COPY_MS = {Kind.cudaMemcpyHostToDevice: 2, Kind.cudaMemcpyDeviceToHost: 3}
UNSAFE = {
    *("cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost", "cudaStreamSynchronize", "cudaEventSynchronize"),
    *("cudaStreamDestroy", "cudaEventDestroy", "cudaGraphExecDestroy"),
}
"""What spoils a capture if its own thread does it."""


Owned = TypeVar("Owned", Stream, Event, Graph, Block)


def _one_call_at_a_time(device: type[Device]) -> type[Device]:
    """Each of CUDA's functions by way of ``Device.take``."""

    def taken(name: str, function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        @functools.wraps(function)
        def call(self: Device, *arguments: Any) -> tuple[Any, ...]:
            if name in self.before:
                self.before[name]()
            with self.lock:
                return self.take(name, function, arguments)

        return call

    for name, function in list(vars(device).items()):
        if name.startswith("cuda") and inspect.isfunction(function):
            setattr(device, name, taken(name, function))
    return device


@_one_call_at_a_time
class Device:
    """The runtime's functions, each returning its error first. Takes one call at a time, from any thread."""

    cudaMemcpyKind, cudaStreamCaptureMode, cudaDeviceAttr, cudaError_t = Kind, Mode, Attribute, Error
    cudaStreamNonBlocking, cudaHostAllocMapped, cudaEventBlockingSync = 1, 2, 1

    def __init__(
        self,
        choose: Callable[[int], int],
        *,
        integrated: bool = False,
        devices: int = 1,
        fail: dict[str, int] | None = None,
        error: Error = Error.cudaErrorInvalidValue,
        memory: int = 1 << 30,
    ) -> None:
        """``choose(n)`` picks one of 0 to n - 1; ``memory``: bytes of each GPU.

        ``fail`` lets the n-th call of a function fail with ``error``, counted from 1; ``work`` is a piece of work.
        """
        self.choose, self.integrated, self.devices, self.memory = choose, integrated, devices, memory
        self.fail, self.error = dict(fail or {}), error
        self.before: dict[str, Callable[[], None]] = {}
        """What to do before each call of a function, while other threads may go on."""
        self.lock = threading.RLock()
        self.host: dict[int, Block] = {}
        self.mapped: dict[int, int] = {}
        self.device: dict[int, Block] = {}
        self.graveyard: list[Block] = []
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, Graph] = {}
        self.execs: dict[int, Graph] = {}
        self.captures: dict[int, Capture] = {}
        """By thread."""
        self.held: dict[Any, int] = {}
        """Bytes of the GPU that engines and contexts hold by themselves."""
        self.owners: set[int] = set()
        """GPUs on which anything was ever made."""
        self.peak = 0
        self.spoiled = 0
        self.lost: Error | None = None
        self.faults: list[str] = []
        self.touches = 0
        self.calls: list[str] = []
        self._thread = threading.local()
        self._counter = 100
        self._now = 0.0

    # What the tests ask

    def check_empty(self) -> None:
        """Fault if anything is still there, if freed memory was written to, or if there was a Fault before."""
        if self.faults:
            raise Fault(self.faults[0])
        if leaks := self.in_use():
            raise Fault(f"leaked: {leaks}")
        for block in self.graveyard:
            if block.fault():
                raise Fault(block.fault())

    def in_use(self) -> dict[str, int]:
        """What there is, and how much of it; of a GPU that is lost, what can still be released."""
        found: dict[str, Any] = {"engines and contexts": self.held, "captures": self.captures}
        if self.lost is None:
            found |= {
                "host memory": self.host, "device memory": self.device, "streams": self.streams,
                "events": self.events, "graphs": self.graphs, "graph executables": self.execs,
            }  # fmt: skip
        return {name: len(things) for name, things in found.items() if things}

    def punish(self, what: str) -> NoReturn:
        self.faults.append(what)
        raise Fault(what)

    @property
    def gpu(self) -> int:
        """The current GPU of the calling thread."""
        return int(getattr(self._thread, "gpu", 0))

    # Time

    def take(self, name: str, function: Callable[..., tuple[Any, ...]], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Call one of CUDA's functions, unless it is to fail, with some of the work done before and after."""
        self.touches += 1
        self.calls.append(name)
        self._shake()
        if self._fails(name):
            if name == "cudaStreamEndCapture":
                self.captures.pop(threading.get_ident(), None)
            return self.error, None
        if self.lost is not None:
            return self.lost, None
        if name in UNSAFE and self.spoil():
            return Error.cudaErrorStreamCaptureUnsupported, None
        result = function(self, *arguments)
        self._shake()
        return result if self.lost is None else (self.lost, None)

    def _fails(self, name: str) -> bool:
        if self.fail.get(name, 0) < 1:
            return False
        self.fail[name] -= 1
        if self.fail[name] > 0:
            return False
        if self.error in STICKY:
            self.lost = self.error
            self.captures.clear()
            for stream in self.streams.values():
                stream.works.clear()
        return True

    def _shake(self) -> None:
        """Do some of the work that waits, or none."""
        if self.choose(8) == 7:
            for _ in range(1 + self.choose(4)):
                self._step()

    def _step(self) -> None:
        """Do a piece of work in one of the streams, if there is any."""
        waiting = [stream for stream in self.streams.values() if stream.works]
        if not waiting:
            return
        work = waiting[self.choose(len(waiting))].works.popleft()
        self._now += work.ms + self.choose(3)
        if not self._fails("work"):
            work.do()

    def enqueue(self, stream: int, work: Work) -> None:
        """Put ``work`` into a stream, or into what is captured of it."""
        found = self._find(self.streams, stream, "a stream")
        capture = self.capture_of(stream)
        if capture is None:
            work.begin(stream)
            found.works.append(work)
        elif self.captures.get(threading.get_ident()) is not capture:
            self.punish("a stream was used that another thread captures")
        else:
            capture.works.append(work)

    def capture_of(self, stream: int) -> Capture | None:
        """What captures a stream."""
        return next((capture for capture in self.captures.values() if capture.stream == int(stream)), None)

    def spoil(self) -> bool:
        """Do what the calling thread must not do in a capture: whether it is in one."""
        capture = self.captures.get(threading.get_ident())
        if capture is not None:
            capture.spoiled = True
            self.spoiled += 1
        return capture is not None

    def in_flight(self, thing: Any) -> bool:
        return any(thing in work.uses for stream in self.streams.values() for work in stream.works)

    def hold(self, thing: Any, size: int) -> bool:
        """Let an engine or a context have some of the GPU's memory, if there is as much."""
        if size > self._free():
            return False
        self.held[thing] = size
        self._grown()
        return True

    def _grown(self) -> None:
        self.owners.add(self.gpu)
        self.peak = max(self.peak, self.memory - self._free())

    def _make(self, table: dict[int, Owned], thing: Owned) -> Handle:
        self._counter += 1
        table[self._counter] = thing
        self._grown()
        return Handle(self._counter)

    def _find(self, table: dict[int, Owned], handle: Any, what: str) -> Owned:
        found = table.get(int(handle))
        if found is None:
            self.punish(f"{what} that is not there")
        if found.gpu != self.gpu:
            self.punish(f"{what} of GPU {found.gpu} while GPU {self.gpu} is current")
        return found

    # The GPU

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return (Error.cudaSuccess, self.devices) if self.devices else (Error.cudaErrorNoDevice, None)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, 13020

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, 13000

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self.gpu

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        if not 0 <= device < self.devices:
            return (Error.cudaErrorInvalidDevice,)
        self._thread.gpu = device
        return (Error.cudaSuccess,)

    def cudaDeviceGetAttribute(self, attribute: Attribute, device: int) -> tuple[Any, ...]:
        return Error.cudaSuccess, {18: int(self.integrated), 75: 8 + device, 76: 7}[Attribute(attribute)]

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return Error.cudaSuccess, SimpleNamespace(name=b"Simulated GPU" + b" 1" * device + b"\0\0")

    def cudaDeviceGetPCIBusId(self, length: int, device: int) -> tuple[Any, ...]:
        return Error.cudaSuccess, (b"0000:%02d:00.0\0" % (1 + device)).ljust(length)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self._free(), self.memory

    def _free(self) -> int:
        gpu = self.gpu
        blocks = (*self.device.values(), *(self.host.values() if self.integrated else ()))
        held = sum(size for thing, size in self.held.items() if thing.gpu == gpu)
        return self.memory - held - sum(block.size for block in blocks if block.gpu == gpu)

    # Memory

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size < 1:
            self.punish("no memory at all was asked for")
        if size > self._free():
            return Error.cudaErrorMemoryAllocation, None
        self._counter += 1
        address = DEVICE_BASE + (self._counter << 20)
        self.device[address] = Block(self.gpu, size, DEVICE_POISON)
        self._grown()
        return Error.cudaSuccess, address

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        if flags & ~self.cudaHostAllocMapped:
            self.punish("pinned memory that the CPU reads slowly, or that belongs to all GPUs")
        if self.integrated and size > self._free():
            return Error.cudaErrorMemoryAllocation, None
        block = Block(self.gpu, size, HOST_POISON)
        address = block.view.ctypes.data
        self.host[address] = block
        if flags & self.cudaHostAllocMapped:
            self._counter += 1
            self.mapped[DEVICE_BASE + (self._counter << 20)] = address
        self._grown()
        return Error.cudaSuccess, address

    def cudaHostGetDevicePointer(self, pointer: int, flags: int) -> tuple[Any, ...]:
        found = [seen for seen, address in self.mapped.items() if address == pointer]
        return (Error.cudaSuccess, found[0]) if found else (Error.cudaErrorInvalidValue, None)

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:
        return self._release(self.device, pointer)

    def cudaFreeHost(self, pointer: int) -> tuple[Any, ...]:
        return self._release(self.host, pointer)

    def _release(self, table: dict[int, Block], pointer: int) -> tuple[Any, ...]:
        block = self._find(table, pointer, "freed twice, or never set aside: memory")
        names = {pointer, *(seen for seen, address in self.mapped.items() if address == pointer)}
        if any(map(self.in_flight, names)):
            self.punish("freed under work in flight")
        if block.fault():
            self.punish(block.fault())
        del table[pointer]
        self.mapped = {seen: address for seen, address in self.mapped.items() if address != pointer}
        block.freed = True
        block.view[:] = FREED
        self.graveyard.append(block)
        return (Error.cudaSuccess,)

    def block(self, address: int, size: int, gpu: int | None = None) -> NDArray[np.uint8]:
        """Memory as a GPU sees it, the current one or ``gpu``: a host address is none of its own."""
        found = self.device.get(address) or self.host.get(self.mapped.get(address, 0))
        if found is None:
            self.punish("the GPU used memory that is not there, or not its own")
        if found.gpu != (self.gpu if gpu is None else gpu):
            self.punish("a GPU used another's memory")
        if size > found.size:
            self.punish(f"the GPU used {size} bytes of {found.size}")
        return found.view[:size]

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Kind, stream: int) -> tuple[Any, ...]:
        if not isinstance(kind, Kind) or kind not in COPY_MS:
            self.punish("a copy of no kind, or of one that none here should be")
        down = kind == Kind.cudaMemcpyDeviceToHost
        ours, theirs = (target, source) if down else (source, target)
        if ours not in self.host or theirs not in self.device:
            self.punish("a copy in the wrong direction, or of memory that is not there")
        if size > min(self.host[ours].size, self.device[theirs].size):
            self.punish("a copy of more than there is")
        if {self.host[ours].gpu, self.device[theirs].gpu} != {self.gpu}:
            self.punish("a copy of another GPU's memory")
        host, gpu = self.host[ours].view[:size], self.gpu

        def do() -> None:
            there = self.block(theirs, size, gpu)
            np.copyto(*((host, there) if down else (there, host)))

        def begin(stream: int) -> None:
            if down:
                host[:] = HOST_POISON

        self.enqueue(stream, Work(do, (target, source), COPY_MS[kind], begin))
        return (Error.cudaSuccess,)

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        if flags != self.cudaStreamNonBlocking:
            self.punish("a stream that waits for the default one")
        return Error.cudaSuccess, self._make(self.streams, Stream(self.gpu))

    def cudaStreamDestroy(self, stream: Handle) -> tuple[Any, ...]:
        if self._find(self.streams, stream, "a stream").works:
            self.punish("a stream was destroyed with work in it")
        if self.capture_of(int(stream)):
            self.punish("a stream was destroyed in a capture")
        del self.streams[int(stream)]
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Handle) -> tuple[Any, ...]:
        found = self._find(self.streams, stream, "a stream")
        while found.works:
            self._step()
        return (Error.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        if flags != self.cudaEventBlockingSync:
            self.punish("an event without time, or that spins")
        return Error.cudaSuccess, self._make(self.events, Event(self.gpu))

    def cudaEventDestroy(self, event: Handle) -> tuple[Any, ...]:
        self._find(self.events, event, "an event")
        if self.in_flight(int(event)):
            self.punish("an event was destroyed under work in flight")
        del self.events[int(event)]
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: Handle, stream: Handle) -> tuple[Any, ...]:
        found = self._find(self.events, event, "an event")
        if self.capture_of(int(stream)):
            self.punish("an event was recorded in a capture")
        found.pending += 1

        def do() -> None:
            found.pending -= 1
            found.time = self._now

        self.enqueue(int(stream), Work(do, (int(event),)))
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event: Handle) -> tuple[Any, ...]:
        found = self._find(self.events, event, "an event")
        while found.pending and self.lost is None:
            self._step()
        return (Error.cudaSuccess,)

    def cudaEventElapsedTime(self, start: Handle, end: Handle) -> tuple[Any, ...]:
        times = []
        for event in (start, end):
            found = self._find(self.events, event, "an event")
            if found.pending or found.time is None:
                self.punish("the time of an event that has not come")
            times.append(found.time)
        return Error.cudaSuccess, times[1] - times[0]

    # Graphs

    def cudaStreamBeginCapture(self, stream: Handle, mode: Mode) -> tuple[Any, ...]:
        if mode is not Mode.cudaStreamCaptureModeThreadLocal:
            self.punish("a capture that other threads can spoil")
        if threading.get_ident() in self.captures or self.capture_of(int(stream)):
            self.punish("a capture within a capture")
        self._find(self.streams, stream, "a stream")
        self.captures[threading.get_ident()] = Capture(int(stream))
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Handle) -> tuple[Any, ...]:
        capture = self.captures.pop(threading.get_ident(), None)
        if capture is None or capture.stream != int(stream):
            self.punish("the end of a capture that was not begun in this thread")
        if capture.spoiled:
            return Error.cudaErrorStreamCaptureInvalidated, None
        return Error.cudaSuccess, self._make(self.graphs, Graph(self.gpu, capture.works))

    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> tuple[Any, ...]:
        if flags:
            self.punish("a graph with flags that none here should have")
        works = self._find(self.graphs, graph, "a graph").works
        return Error.cudaSuccess, self._make(self.execs, Graph(self.gpu, list(works)))

    def cudaGraphUpload(self, executable: Handle, stream: Handle) -> tuple[Any, ...]:
        self._find(self.execs, executable, "a graph executable")
        self.enqueue(int(stream), Work(lambda: None, (int(executable),)))
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Handle) -> tuple[Any, ...]:
        self._find(self.graphs, graph, "a graph")
        del self.graphs[int(graph)]
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable: Handle) -> tuple[Any, ...]:
        self._find(self.execs, executable, "a graph executable")
        if self.in_flight(int(executable)):
            self.punish("a graph was destroyed in flight")
        del self.execs[int(executable)]
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, executable: Handle, stream: Handle) -> tuple[Any, ...]:
        for work in self._find(self.execs, executable, "a graph executable").works:
            self.enqueue(int(stream), Work(work.do, (*work.uses, int(executable)), work.ms, work.begin))
        return (Error.cudaSuccess,)
