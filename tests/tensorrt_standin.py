"""Stand-ins for TensorRT's Python modules that have the names of one release and no others.

``tensorrt_api.json`` lists the members of the real bindings' classes: by class, the releases that have them. What a
stand-in does is the least that compiling needs; what was set and called is kept, for tests to look at.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RELEASES = ("10.3.0", "10.13.0", "10.16.1", "11.0.0", "11.4.0", "rtx-1.7.1")
API: dict[str, dict[str, list[str]]] = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())


def members(kind: str, release: str) -> set[str]:
    """The names that a class has in a release; empty if there is no such class."""
    return {name for which, names in API[kind].items() if which == "all" or release in which.split() for name in names}


class Strict:
    """An object of one class of one release: it has that class's names alone."""

    def __init__(self, kind: str, trt: StandIn, **behaviour: Any) -> None:
        self.__dict__["_state"] = SimpleNamespace(kind=kind, trt=trt, behaviour=behaviour, set={}, calls=[])

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__["_state"]
        state.trt.touch(state.kind, name)
        if name in state.set:
            return state.set[name]
        found = state.behaviour.get(name)
        if found is not None and not callable(found):
            return found

        def call(*arguments: Any) -> Any:
            state.calls.append((name, *arguments))
            return found(*arguments) if found else None

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__["_state"]
        state.trt.touch(state.kind, name)
        state.set[name] = value


def settings(thing: Strict) -> dict[str, Any]:
    """What was set on a stand-in's object."""
    return dict(thing.__dict__["_state"].set)


def calls(thing: Strict, name: str) -> list[tuple[Any, ...]]:
    """The arguments of each call of a method."""
    return [arguments for called, *arguments in thing.__dict__["_state"].calls if called == name]  # type: ignore[misc]


class StandIn:
    """The module of one release."""

    def __init__(
        self,
        release: str,
        *,
        dla_cores: int = 0,
        fault: str = "",
        refuse: str = "",
        why: str = "no luck",
        planar: bool = False,
    ) -> None:
        """``fault``: what the parser reports; ``refuse``: a method that gives None and why; ``planar``: NCHW input."""
        self.release = release
        self.__version__ = release.removeprefix("rtx-")
        self.touched: set[tuple[str, str]] = set()
        self.fault, self.refuse, self.why = fault, refuse, why
        self.logs: list[Any] = []
        self.config = Strict(
            "IBuilderConfig",
            self,
            add_optimization_profile=lambda profile: -1 if refuse == "add_optimization_profile" else 0,
            create_timing_cache=lambda data: Strict("ITimingCache", self, serialize=lambda: data + b"!"),
            get_timing_cache=lambda: calls(self.config, "set_timing_cache")[-1][0],
        )
        self.profiles: list[Strict] = []
        self.builder = Strict(
            "Builder",
            self,
            num_DLA_cores=dla_cores,
            create_network=lambda flags: self.network,
            create_builder_config=lambda: self.config,
            create_optimization_profile=self._make_profile,
            build_serialized_network=self._build,
        )
        lr = Strict("ITensor", self, name="lr", shape=(-1, 3, -1, -1) if planar else (-1, -1, -1, 3))
        self.network = Strict("INetworkDefinition", self, get_input=lambda index: lr)
        self.error = Strict(
            "ParserError", self, node_name=lambda: "tail", node_operator=lambda: "Conv", desc=lambda: self.fault
        )
        self.parser = Strict(
            "OnnxParser",
            self,
            parse=lambda onnx: not fault,
            num_errors=int(bool(fault)),
            get_error=lambda i: self.error,
        )
        inspector = Strict("EngineInspector", self, get_engine_information=lambda form: '{"Layers": []}')
        engine = Strict("ICudaEngine", self, create_engine_inspector=lambda: inspector)
        self.runtime = Strict(
            "Runtime",
            self,
            deserialize_cuda_engine=lambda data: self._unless_refused("deserialize_cuda_engine", engine),
        )

    def touch(self, kind: str, name: str) -> None:
        """Note that a name was used; AttributeError if this release has none such."""
        self.touched.add((kind, name))
        if name not in members(kind, self.release):
            raise AttributeError(f"{kind} of {self.release} has no {name}")

    def _build(self, network: Strict, config: Strict) -> bytes | None:
        monitor = settings(self.config)["progress_monitor"]
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Timing tactics", "Building engine", 9)
        assert monitor.step_complete("Timing tactics", 0)
        assert monitor.step_complete("Building engine", 0), "True goes on"
        monitor.phase_finish("Timing tactics")
        monitor.phase_finish("Building engine")
        return self._unless_refused("build_serialized_network", b"engine")

    def _unless_refused(self, method: str, found: Any) -> Any:
        """``found``, or None with an error in the log, as TensorRT does where it fails."""
        if self.refuse != method:
            return found
        self.logs[-1].log(self.ILogger.INFO, "all is well")
        self.logs[-1].log(self.ILogger.ERROR, f"{method}:\n  {self.why}")
        self.logs[-1].log(self.ILogger.WARNING, "mind")
        return None

    def _make_profile(self) -> Strict:
        self.profiles.append(Strict("IOptimizationProfile", self))
        return self.profiles[-1]

    def __getattr__(self, name: str) -> Any:
        makers = {
            "Builder": lambda log: self.logs.append(log) or self.builder,
            "OnnxParser": lambda network, log: self.parser,
            "Runtime": lambda log: self.runtime,
        }
        if name in ("ILogger", "IProgressMonitor"):
            constants = {member: member for member in members(name, self.release) if member.isupper()}
            return type(name, (), constants)
        if name in makers:
            return makers[name]
        if name not in API or not members(name, self.release):
            raise AttributeError(f"TensorRT {self.release} has no {name}")
        return Enum(name, self)


class Enum:
    """An enumeration of one release: ``trt.BuilderFlag.TF32`` is the number that its name has among all names."""

    def __init__(self, kind: str, trt: StandIn) -> None:
        self._kind, self._trt = kind, trt

    def __getattr__(self, name: str) -> Any:
        self._trt.touch(self._kind, name)
        return Value(name)


class Value(str):
    """A member of an enumeration: its name, and some number."""

    def __int__(self) -> int:
        return len(self)
