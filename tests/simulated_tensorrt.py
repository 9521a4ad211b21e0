"""Simulated engines and execution contexts, which compute with ONNX Runtime on a simulated GPU."""

from __future__ import annotations

import json
import weakref
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tests.simulated_cuda import DEVICE_POISON, Device, Fault, Work
from tests.tensorrt_standin import StandIn, Strict


class SimulatedContext:
    """An execution context: what a bug can spoil in a real one is a Fault."""

    def __init__(self, device: Device, engine: SimulatedEngine) -> None:
        self.device, self.engine = device, engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.profile: int | None = None
        self.warm = False
        self.streams: dict[int, int] = {}
        device.contexts.add(self)

    def set_profile(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.profiles[self.profile or 0]
        self.shape = tuple(shape)
        return name == "lr" and all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))

    def shape_of(self, name: str) -> tuple[int, ...]:
        n, height, width, channels = self.shape
        s = self.engine.scale
        return self.shape if name == "lr" else (n, height * s, width * s, channels)

    def set_address(self, name: str, address: int) -> bool:
        self.device.block(address, int(np.prod(self.shape_of(name))))
        self.addresses[name] = address
        return True

    def enqueue(self, stream: int) -> bool:
        if self.engine.freed:
            raise Fault("an engine that was freed before its contexts")
        if self.device.capturing is not None and not self.warm:
            raise Fault("a capture before the first run")
        if {*self.addresses} != {"lr", "sr"}:
            raise Fault("a run without addresses")
        if any(count and other != stream for other, count in self.streams.items()):
            raise Fault("one execution context in two streams at once")
        captured = self.device.capturing is not None
        sizes = {name: int(np.prod(self.shape_of(name))) for name in ("lr", "sr")}
        addresses, shape = dict(self.addresses), self.shape
        if not captured:
            self.streams[stream] = self.streams.get(stream, 0) + 1
            self.device.block(addresses["sr"], sizes["sr"])[:] = DEVICE_POISON

        def do() -> None:
            if not captured:
                self.streams[stream] -= 1
            lr = self.device.block(addresses["lr"], sizes["lr"]).reshape(shape)
            sr = self.engine.compute(lr)
            self.device.block(addresses["sr"], sizes["sr"])[:] = sr.reshape(-1)
            self.warm = True

        self.device.enqueue(stream, Work("compute", do, (self, *addresses.values())))
        return True


class SimulatedEngine:
    """An engine whose bytes are JSON: an ONNX file's name, the scale, and the profiles."""

    def __init__(self, data: bytes) -> None:
        found = json.loads(data)
        self.session = session_of(found["onnx"])
        self.scale = found["scale"]
        self.profiles = [tuple(map(tuple, profile)) for profile in found["profiles"]]
        self.freed = False

    def compute(self, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        sr: NDArray[np.uint8] = self.session.run(None, {"lr": lr.copy()})[0]
        return sr


_SESSIONS: dict[str, Any] = {}


def session_of(path: str) -> Any:
    if path not in _SESSIONS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        _SESSIONS[path] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return _SESSIONS[path]


class SimulatedTensorRT(StandIn):
    """TensorRT's module of one release, with engines that run on a simulated GPU."""

    def __init__(self, release: str, device: Device, *, capturable: bool = True, refuse: str = "") -> None:
        """``refuse``: a method that returns None or False, as TensorRT does where it fails."""
        super().__init__(release)
        self.gpu, self.capturable, self.refuse = device, capturable, refuse
        self.runtime = Strict("Runtime", self, deserialize_cuda_engine=self._deserialize)

    def _deserialize(self, data: bytes) -> Strict | None:
        if self.refuse == "deserialize_cuda_engine":
            return None
        engine = SimulatedEngine(data)
        made = Strict(
            "ICudaEngine",
            self,
            num_io_tensors=2,
            num_optimization_profiles=len(engine.profiles),
            get_tensor_name=lambda index: ("sr", "lr")[index],
            get_tensor_mode=lambda name: {"lr": self.TensorIOMode.INPUT, "sr": self.TensorIOMode.OUTPUT}[name],
            get_tensor_dtype=lambda name: self.DataType.UINT8,
            get_tensor_profile_shape=lambda name, index: list(engine.profiles[index]),
            create_execution_context=lambda: self._context(engine),
        )
        weakref.finalize(made, lambda: setattr(engine, "freed", True))
        return made

    def _context(self, engine: SimulatedEngine) -> Strict | None:
        context = SimulatedContext(self.gpu, engine)
        behaviour: dict[str, Any] = {
            "set_optimization_profile_async": context.set_profile,
            "set_input_shape": context.set_shape,
            "get_tensor_shape": context.shape_of,
            "set_tensor_address": context.set_address,
            "execute_async_v3": context.enqueue,
            "is_stream_capturable": lambda stream: self.capturable,
        }
        if self.refuse in behaviour:
            behaviour[self.refuse] = lambda *arguments: False
        return None if self.refuse == "create_execution_context" else Strict("IExecutionContext", self, **behaviour)
