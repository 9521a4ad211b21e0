"""CUDA's host functions through cuda-bindings, each of them checked, and memory, streams and events that are owned.

What fails is a BackendError of one line, with the function, the error's name and code, and what to do. Whatever is made
here is released by ``close`` of what made it; releasing never raises. (NVIDIA, CUDA Runtime API; the functions in use
have the same signatures in cuda-bindings 12.9 and 13.)
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._errors import BackendError, require
from ..forks import NO_GPU

_CAPTURING = threading.Lock()

_LOST = "the GPU's state is lost for this process: restart the program"
_ADVICE = {
    "cudaErrorMemoryAllocation": "the GPU's memory is full: use a smaller frame or tile, or close what else uses it",
    "cudaErrorInsufficientDriver": "there is no NVIDIA driver, or one older than CUDA's libraries: install a newer one",
    "cudaErrorInitializationError": "CUDA does not start; in a forked process it cannot: start that with spawn",
    "cudaErrorNoDevice": "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES",
    "cudaErrorInvalidDevice": "there are fewer GPUs than that: see nvidia-smi",
    **dict.fromkeys(
        (
            *("cudaErrorIllegalAddress", "cudaErrorLaunchTimeout", "cudaErrorAssert", "cudaErrorHardwareStackError"),
            *("cudaErrorIllegalInstruction", "cudaErrorMisalignedAddress", "cudaErrorInvalidAddressSpace"),
            *("cudaErrorInvalidPc", "cudaErrorLaunchFailure", "cudaErrorECCUncorrectable", "cudaErrorContained"),
            *("cudaErrorMpsClientTerminated", "cudaErrorExternalDevice"),
        ),
        _LOST,
    ),
    "cudaErrorSystemDriverMismatch": "the driver was updated while it ran: restart the machine",
}


def is_lost(fault: str) -> bool:
    """True if an error's text says that nothing but a new process helps."""
    return _LOST in fault


def keep_for_ever(thing: Any) -> None:
    """Never let ``thing`` be destroyed, not even when Python ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class OutOfMemory(BackendError):
    """The GPU's memory is full, which does no harm to what runs."""


class Cuda:
    """The CUDA runtime on one GPU. Safe to use from several threads, each of which must ``select`` it first.

    A thread stays on the GPU that was last selected in it, whoever did so (cudaSetDevice).
    """

    def __init__(self, device: int = 0, runtime: Any = None) -> None:
        """``runtime``: ``cuda.bindings.runtime``, or what stands in for it.

        Raises BackendError if there is no such GPU, MissingExtraError if cuda-bindings are not installed.
        """
        self.runtime = runtime or require("cuda.bindings.runtime", "tensorrt")
        self.device = device
        self._process = os.getpid()
        try:
            count = self.call("cudaGetDeviceCount")
        except BackendError:
            raise
        except Exception as error:  # a library that is not found is an error of cuda-bindings' own
            raise BackendError(f"CUDA cannot be used ({error}): install an NVIDIA driver") from error
        if not 0 <= device < count:
            raise BackendError(f"there is no GPU {device}: this machine has {count}")
        self.select()
        self.sm = 10 * self.attribute("cudaDevAttrComputeCapabilityMajor") + self.attribute(
            "cudaDevAttrComputeCapabilityMinor"
        )
        """Compute capability, 89 for 8.9."""
        self.name = str(self.call("cudaGetDeviceProperties", device).name, "utf-8", "replace").rstrip("\0")
        """The vendor's name."""
        self.integrated = bool(self.attribute("cudaDevAttrIntegrated"))
        """True if it shares the CPU's memory, as on a Jetson."""

    @property
    def bus_id(self) -> str:
        """Where it is, as nvidia-smi has it: ``0000:01:00.0``."""
        return str(self.call("cudaDeviceGetPCIBusId", 32, self.device).partition(b"\0")[0], "ascii", "replace")

    @property
    def versions(self) -> tuple[int, int]:
        """CUDA that the driver goes up to, and that of cuda-bindings' own runtime: 13000 is 13.0."""
        return int(self.call("cudaDriverGetVersion")), int(self.call("cudaRuntimeGetVersion"))

    def call(self, function: str, *arguments: Any) -> Any:
        """Results of ``function`` without its error code, which must be success."""
        self.refuse_if_forked()
        error, *found = getattr(self.runtime, function)(*arguments)
        if int(error) != 0:
            name = getattr(error, "name", str(error))
            advice = _ADVICE.get(name, "if it stays, run wdsr-edge doctor --self-test and report what it says")
            kind = OutOfMemory if name == "cudaErrorMemoryAllocation" else BackendError
            raise kind(f"{function} failed with {name} ({int(error)}): {advice}")
        return found[0] if len(found) == 1 else found

    @property
    def is_forked(self) -> bool:
        """True if this is a forked child, in which CUDA does not work and nothing may be released."""
        return os.getpid() != self._process

    def refuse_if_forked(self) -> None:
        """BackendError in a forked child."""
        if self.is_forked:
            raise BackendError(NO_GPU)

    def select(self) -> None:
        """Make this the GPU of the calling thread."""
        self.call("cudaSetDevice", self.device)

    @contextmanager
    def unselected(self) -> Iterator[None]:
        """Whichever GPU is the calling thread's before, is so afterwards."""
        before = None
        with contextlib.suppress(BackendError):
            before = self.call("cudaGetDevice")
        try:
            yield
        finally:
            if before not in (None, self.device):  # to set it would wake that GPU
                with contextlib.suppress(BackendError):
                    self.call("cudaSetDevice", before)

    def attribute(self, name: str) -> int:
        """An attribute of the GPU."""
        return int(self.call("cudaDeviceGetAttribute", getattr(self.runtime.cudaDeviceAttr, name), self.device))

    @property
    def memory(self) -> int:
        """Bytes that the GPU has in all."""
        return int(self.call("cudaMemGetInfo")[1])

    def free_memory(self) -> int:
        """Bytes that a process may take on the GPU; where it shares the CPU's memory, what the system can make free."""
        free = int(self.call("cudaMemGetInfo")[0])
        if self.integrated:
            with contextlib.suppress(OSError, ValueError, IndexError):
                found = re.findall(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text("ascii"), re.MULTILINE)
                free = max(free, int(found[0]) << 10)
        return free


class Resources:
    """Memory, streams, events and graphs of one owner, released last first."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._stack = ExitStack()

    def _own(self, thing: Any, release: str) -> Any:
        self._stack.callback(self._release, release, thing)
        return thing

    def _release(self, function: str, thing: Any) -> None:
        with contextlib.suppress(BackendError):  # the GPU may be lost, and then nothing is left to release
            self.cuda.call(function, thing)

    def close(self) -> None:
        """Release everything; the streams must have been synchronised."""
        with contextlib.suppress(BackendError):
            self.cuda.select()
        self._stack.close()

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self._own(
            self.cuda.call("cudaStreamCreateWithFlags", self.cuda.runtime.cudaStreamNonBlocking), "cudaStreamDestroy"
        )

    def event(self) -> Any:
        """An event that keeps its time, and whose waiters sleep."""
        flags = self.cuda.runtime.cudaEventBlockingSync
        return self._own(self.cuda.call("cudaEventCreateWithFlags", flags), "cudaEventDestroy")

    def device(self, size: int) -> int:
        """``size`` bytes on the GPU: their address."""
        return int(self._own(self.cuda.call("cudaMalloc", size), "cudaFree"))

    def pinned(self, size: int) -> tuple[NDArray[np.uint8], int]:
        """``size`` bytes of pinned host memory, which the GPU sees as well: the bytes, and their address there."""
        pointer = self._own(
            self.cuda.call("cudaHostAlloc", size, self.cuda.runtime.cudaHostAllocMapped), "cudaFreeHost"
        )
        seen = int(self.cuda.call("cudaHostGetDevicePointer", pointer, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(pointer))), seen

    def graph(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        """CUDA graph of what ``enqueue`` puts into ``stream``, for repeated launches; BackendError if capture fails."""
        with _without_collection(), self._capturing(stream) as captured:
            enqueue()
        try:
            made = self._own(self.cuda.call("cudaGraphInstantiate", captured[0], 0), "cudaGraphExecDestroy")
            self.cuda.call("cudaGraphUpload", made, stream)  # or the first launch takes the memory for it
            return made
        finally:
            self._release("cudaGraphDestroy", captured[0])

    @contextmanager
    def _capturing(self, stream: Any) -> Iterator[list[Any]]:
        """Capture ``stream``, as far as this thread goes; the graph is in the list afterwards."""
        captured: list[Any] = []
        mode = self.cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.cuda.call("cudaStreamBeginCapture", stream, mode)
        try:
            yield captured
        except BaseException:
            with contextlib.suppress(BackendError):  # or the stream stays in capture
                self._release("cudaGraphDestroy", self.cuda.call("cudaStreamEndCapture", stream))
            raise
        captured.append(self.cuda.call("cudaStreamEndCapture", stream))


@contextmanager
def _without_collection() -> Iterator[None]:
    """The garbage collector might free memory of another session in this thread, which spoils a capture.

    One capture at a time, as there is one collector.
    """
    with _CAPTURING:
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()
