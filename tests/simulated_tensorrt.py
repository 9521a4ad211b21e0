"""Simulated engines and execution contexts, which compute with ONNX Runtime on a simulated GPU.

What a bug can spoil in real ones is a Fault: the wrong GPU, memory that is too small or gone, two streams or two
contexts in the same memory at once, a profile that is not set yet, and what goes before the things it made.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tests.simulated_cuda import Device
from tests.simulated_parts import DEVICE_POISON, Work
from tests.tensorrt_standin import StandIn, Strict, Value, calls, settings

Shape = tuple[int, ...]
COMPUTE_MS = 5
ALIGNED = 256


class Life:
    """How long a thing of TensorRT's lives, which must be longer than what it made."""

    def __init__(self, device: Device, what: str, made_by: tuple[Life, ...] = ()) -> None:
        self.device, self.gpu, self.what, self.made_by = device, device.gpu, what, made_by
        self.children = 0
        self.gone = False
        self.ending: Callable[[], None] = lambda: None
        for parent in made_by:
            if parent.gone:
                device.punish(f"{what} of {parent.what} that is gone")
            parent.children += 1

    def follow(self, made: Strict) -> Strict:
        """End with ``made``; an array is what the garbage collector does not see, and so goes when that really does."""
        token = made.__dict__["_token"] = np.empty(0)
        weakref.finalize(token, self._end).atexit = False
        made.__dict__["_state"].calls = deque(maxlen=0)  # or it keeps what it was called with
        return made

    def _end(self) -> None:
        with self.device.lock:
            self.gone = True
            self.device.touches += 1
            if self.children:
                self.device.faults.append(f"{self.what} went before what it made")
            for parent in self.made_by:
                parent.children -= 1
            if self.device.held.pop(self, None) is not None:
                self.device.spoil()  # its memory is freed
            self.ending()


class SimulatedContext:
    """An execution context."""

    def __init__(self, engine: SimulatedEngine, life: Life, captures_itself: bool, kernels: Kernels | None) -> None:
        self.device, self.engine, self.life = engine.device, engine, life
        self.captures_itself, self.kernels = captures_itself, kernels
        self.addresses: dict[str, int] = {}
        self.shape: Shape = ()
        self.profile: int | None = 0
        self.switching: int | None = None
        """In which stream the profile is about to be set."""
        self.warm = False
        self.streams: dict[int, int] = {}
        self.memory = (0, 0)
        self.runs = 0
        life.ending = self.end

    def end(self) -> None:
        if self.device.in_flight(self):
            self.device.faults.append("an execution context was destroyed in flight")

    def check(self) -> None:
        """Whether it may be used here and now."""
        if self.engine.life.gone:
            self.device.punish("an engine that was freed before its contexts")
        if self.device.gpu != self.life.gpu:
            self.device.punish("an execution context was used while another GPU is current")

    def check_idle(self, what: str) -> None:
        self.check()
        if self.device.in_flight(self):
            self.device.punish(f"{what} of a context in flight")

    def set_profile(self, index: int, stream: int) -> bool:
        self.check_idle("the profile")
        self._check_stream(stream)
        if self.device.capture_of(stream):
            self.device.punish("a profile was set in a capture")
        if not 0 <= index < len(self.engine.profiles):
            return False
        self.profile, self.shape, self.memory, self.warm = None, (), (0, 0), False
        self.switching = stream

        def do() -> None:
            self.switching = None

        self.device.enqueue(stream, Work(do, (self,), 1))
        self.profile = index
        return True

    def set_shape(self, name: str, shape: Shape) -> bool:
        self.check_idle("the shape") if self.switching is None else self.check()
        least, _, most = self.engine.profiles[self.profile or 0]
        if name != "lr" or not all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True)):
            return False
        self.shape, self.memory, self.warm = tuple(shape), (0, 0), False
        return True

    def shape_of(self, name: str) -> Shape:
        return self.shape if name == "lr" else self.engine.made_of(self.shape)

    def bytes_of(self, name: str) -> int:
        return int(np.prod(self.shape_of(name))) * self.engine.dtype.itemsize

    def memory_size(self) -> int:
        self.check()
        if not self.shape:
            self.device.punish("the memory of a context without a shape")
        return self.engine.scratch * int(np.prod(self.shape))

    def set_memory(self, address: int, size: int) -> None:
        self.check_idle("the memory")
        if address % ALIGNED:
            self.device.punish("memory that is not aligned")
        self.device.block(address, size)
        if size < self.memory_size():
            self.device.punish("less memory than the context needs")
        self.memory = (address, size)

    def set_address(self, name: str, address: int) -> bool:
        self.check()
        self.device.block(address, self.bytes_of(name))
        self.addresses[name] = address
        return True

    def enqueue(self, stream: int) -> bool:
        self.check()
        self._check_stream(stream)
        if self.device.lost is not None:
            return False
        if self.profile is None or self.switching not in (None, stream):
            self.device.punish("a run before the profile is set")
        if {*self.addresses} != {"lr", "sr"}:
            self.device.punish("a run without addresses")
        if self.memory[1] < self.memory_size():
            self.device.punish("a run without memory for this shape")
        for address, size in (self.memory, *((self.addresses[name], self.bytes_of(name)) for name in self.addresses)):
            if size:
                self.device.block(address, size)
        if self.device.capture_of(stream):
            self._check_capture()
        if self.kernels is not None:
            self.kernels.compile((self.engine.name, self.shape))
        self._put(stream)
        return True

    def _check_stream(self, stream: int) -> None:
        if type(stream) is not int:
            self.device.punish("a stream's handle where its number is wanted")

    def _check_capture(self) -> None:
        if self.switching is not None:
            self.device.punish("a profile is set in a capture")
        if not self.warm:
            self.device.punish("a capture before the first run")
        if self.captures_itself:
            self.device.punish("a capture of what captures by itself")
        if gc.isenabled():
            gc.collect()  # as it may be at any time

    def _put(self, stream: int) -> None:
        """A run is its beginning and its end, between which the memory is the engine's."""
        addresses, shape, gpu = dict(self.addresses), self.shape, self.life.gpu
        sizes = {name: self.bytes_of(name) for name in addresses}
        memory, size = self.memory
        uses = (self, memory, *addresses.values())

        def begin(stream: int) -> None:
            if self.life.gone:
                self.device.punish("the launch of an execution context that is gone")
            if any(count and other != stream for other, count in self.streams.items()):
                self.device.punish("one execution context in two streams at once")
            self.streams[stream] = self.streams.get(stream, 0) + 1
            self.runs += 1
            stamps.append((self.runs * 7 + id(self) // 16) % 251)
            streams.append(stream)

        stamps: deque[int] = deque()
        streams: deque[int] = deque()

        def start() -> None:
            if size:
                self.device.block(memory, size, gpu)[:] = stamps[0]
            self.device.block(addresses["sr"], sizes["sr"], gpu)[:] = DEVICE_POISON

        def finish() -> None:
            self.streams[streams.popleft()] -= 1
            stamp = stamps.popleft()
            if size and (self.device.block(memory, size, gpu) != stamp).any():
                self.device.punish("two runs had the same memory at once")
            lr = self.device.block(addresses["lr"], sizes["lr"], gpu).view(self.engine.dtype).reshape(shape)
            sr = self.engine.compute(lr).reshape(-1).view(np.uint8)
            self.device.block(addresses["sr"], sizes["sr"], gpu)[:] = sr
            self.warm = True

        self.device.enqueue(stream, Work(start, uses, 0, begin))
        self.device.enqueue(stream, Work(finish, uses, COMPUTE_MS))


class SimulatedEngine:
    """An engine whose bytes are JSON: an ONNX file's name, the scale, the profiles, and some options.

    Without an ONNX file, frames are float32 in NCHW, and what is made of them is simple.
    """

    def __init__(self, data: bytes, device: Device, life: Life) -> None:
        found = json.loads(data)
        self.device, self.life, self.name = device, life, found.get("name", "")
        self.session = session_of(found["onnx"]) if found["onnx"] else None
        self.dtype = np.dtype(np.uint8 if found["onnx"] else np.float32)
        self.scale, self.scratch = found["scale"], found.get("scratch", 2)
        self.weights, self.tensors = found.get("weights", 1000), found.get("tensors", ["sr", "lr"])
        self.floats, self.flat = found.get("floats", []), found.get("flat", False)
        self.profiles = [tuple(map(tuple, profile)) for profile in found["profiles"]]

    def made_of(self, shape: Shape) -> Shape:
        s = self.scale
        if not s:
            return (-1, *shape[1:])
        if self.flat:
            return (shape[0], shape[1] * s, shape[2] * s * shape[3])
        n, a, b, c = shape
        return (n, a * s, b * s, c) if self.session else (n, a, b * s, c * s)

    def compute(self, lr: NDArray[Any]) -> NDArray[Any]:
        if self.session is None:
            return larger(lr, self.scale)
        sr: NDArray[np.uint8] = self.session.run(None, {"lr": lr.copy()})[0]
        return sr


def larger(lr: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """What an engine without an ONNX file makes of planes."""
    return np.float32(1) - lr.repeat(scale, axis=2).repeat(scale, axis=3)


_SESSIONS: dict[str, Any] = {}


def session_of(path: str) -> Any:
    if path not in _SESSIONS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        _SESSIONS[path] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _SESSIONS[path]


class Kernels:
    """What TensorRT for RTX compiled, in one cache."""

    def __init__(self, life: Life, compiled: list[Any]) -> None:
        self.life, self.compiled = life, compiled
        self.known: set[str] = set()

    def compile(self, kernel: tuple[str, Shape]) -> None:
        if self.life.gone:
            self.life.device.punish("kernels that went before their contexts")
        if str(kernel) not in self.known:
            self.compiled.append(kernel)
            self.known.add(str(kernel))

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"kernels\n"):
            return False
        self.known |= set(data.decode().splitlines()[1:])
        return True

    def serialize(self) -> bytes:
        return "\n".join(["kernels", *sorted(self.known)]).encode()


class RuntimeConfig(Strict):
    """TensorRT for RTX's; ``deaf``: what is set of its graphs does not stick."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "cuda_graph_strategy" and self.__dict__["_state"].trt.deaf:
            settings_of = self.__dict__["_state"].set
            settings_of[name] = Value("DISABLED")


class SimulatedTensorRT(StandIn):
    """TensorRT's module of one release, with engines that run on a simulated GPU."""

    def __init__(self, release: str, device: Device, *, refuse: str = "", deaf: bool = False) -> None:
        """``refuse``: a method that returns None or False, as TensorRT does where it fails, and logs why."""
        super().__init__(release)
        self.gpu, self.refuse, self.deaf = device, refuse, deaf
        self.configs: list[dict[str, Any]] = []
        """How each execution context was configured."""
        self.engines: list[Life] = []
        self.contexts: list[SimulatedContext] = []
        self.others: list[Life] = []
        """Runtimes and kernel caches."""
        self.compiled: list[tuple[str, Shape]] = []
        """Kernels that were not in a cache."""
        self.before: dict[str, Callable[[], None]] = {}
        """What to do before each call of a method."""
        self._log: Any = None

    def alive(self) -> int:
        """How many engines there are."""
        return sum(not life.gone for life in self.engines)

    def Runtime(self, log: Any) -> Strict:
        """The first log is kept for good, and used by all."""
        self._log = self._log or weakref.ref(log)
        life = Life(self.gpu, "a runtime")
        self.others.append(life)
        return self._made(life, Strict, "Runtime", deserialize_cuda_engine=lambda data: self._deserialize(life, data))

    def _made(self, life: Life, kind: type[Strict], name: str, **behaviour: Any) -> Strict:
        """An object that takes one call at a time, like the GPU."""

        def locked(method: str, do: Any) -> Any:
            def call(*arguments: Any) -> Any:
                self.before.get(method, lambda: None)()
                with self.gpu.lock:
                    self.gpu.touches += 1
                    if method == self.refuse:
                        self._tell(f"{method}:\n  refused")
                        return None if method.startswith(("create", "deserialize_cuda", "serialize")) else False
                    return do(*arguments)

            return call

        methods = {key: locked(key, value) if callable(value) else value for key, value in behaviour.items()}
        return life.follow(kind(name, self, **methods))

    def _tell(self, what: str) -> None:
        log = self._log()
        if log is None:
            self.gpu.punish("TensorRT's log is gone")
        log.log(self.ILogger.INFO, "all is well")
        log.log(self.ILogger.ERROR, what)
        log.log(self.ILogger.WARNING, "mind")

    def _room(self, life: Life, size: int) -> bool:
        """Take memory, as the GPU and TensorRT's own log have it."""
        if self.gpu.spoil() or self.gpu.lost is not None or not self.gpu.hold(life, size):
            self._tell("Error Code 2: OutOfMemory (Requested size was more than there is.)")
            return False
        return True

    def _deserialize(self, runtime: Life, data: bytes) -> Strict | None:
        life = Life(self.gpu, "an engine", (runtime,))
        engine = SimulatedEngine(data, self.gpu, life)
        if not self._room(life, engine.weights):
            runtime.children -= 1
            return None
        self.engines.append(life)
        return self._made(
            life,
            Strict,
            "ICudaEngine",
            num_io_tensors=len(engine.tensors),
            num_optimization_profiles=len(engine.profiles),
            get_tensor_name=lambda index: engine.tensors[index],
            get_tensor_mode=lambda name: self.TensorIOMode.INPUT if name == "lr" else self.TensorIOMode.OUTPUT,
            get_tensor_dtype=lambda name: (
                self.DataType.UINT8 if engine.dtype == np.uint8 and name not in engine.floats else self.DataType.FLOAT
            ),
            get_tensor_profile_shape=lambda name, index: (
                list(engine.profiles[index]) if name == "lr" else self.gpu.punish(f"a profile of {name}, no input")
            ),
            create_execution_context=lambda strategy: self._context(engine, strategy),
            create_runtime_config=lambda: self._runtime_config(life),
        )

    def _runtime_config(self, engine: Life) -> Strict:
        takes = self.refuse != "set_runtime_cache"
        made = RuntimeConfig(
            "IRuntimeConfig", self, create_runtime_cache=self._cache, set_runtime_cache=lambda cache: takes
        )
        return made

    def _cache(self) -> Strict:
        life = Life(self.gpu, "a kernel cache")
        self.others.append(life)
        kernels = Kernels(life, self.compiled)
        made = self._made(life, Strict, "IRuntimeCache", deserialize=kernels.deserialize, serialize=kernels.serialize)
        made.__dict__["kernels"] = kernels
        return made

    def _context(self, engine: SimulatedEngine, strategy: Any) -> Strict | None:
        config: dict[str, Any] = {}
        kernels: Kernels | None = None
        if not isinstance(strategy, str):
            config = settings(strategy)
            for (cache,) in calls(strategy, "set_runtime_cache"):
                kernels = cache.__dict__["kernels"]
            ((strategy,),) = calls(strategy, "set_execution_context_allocation_strategy")
        if strategy != "USER_MANAGED":
            self.gpu.punish("a context that takes memory for the largest shape")
        if self.gpu.gpu != engine.life.gpu:
            self.gpu.punish("an engine was used while another GPU is current")
        life = Life(self.gpu, "an execution context", (engine.life, *([kernels.life] if kernels else ())))
        if not self._room(life, 100):
            for parent in life.made_by:
                parent.children -= 1
            return None
        captures_itself = self.release.startswith("rtx")
        context = SimulatedContext(engine, life, captures_itself, kernels)
        self.configs.append({**config, "cache": kernels is not None})
        self.contexts.append(context)
        return self._made(
            life,
            Strict,
            "IExecutionContext",
            set_optimization_profile_async=context.set_profile,
            set_input_shape=context.set_shape,
            get_tensor_shape=context.shape_of,
            set_tensor_address=context.set_address,
            execute_async_v3=context.enqueue,
            update_device_memory_size_for_shapes=context.memory_size,
            set_device_memory=context.set_memory,
        )
