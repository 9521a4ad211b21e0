"""TensorRT's Python modules: which there are, how old they may be, and their log."""

from __future__ import annotations

import importlib.util
import threading
from types import ModuleType
from typing import Any

from ..._errors import BackendError, require
from .config import Library

MODULES: dict[Library, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Under which names each library may be installed, the first that is found."""

_LOG_NAME = "_wdsr_edge_log"

OLDEST: dict[Library, tuple[int, int]] = {"tensorrt": (10, 3), "tensorrt-rtx": (1, 7)}
"""Oldest supported releases: the first with strongly typed networks."""


def open_library(library: Library) -> ModuleType:
    """The Python module of ``library``; MissingExtraError if it is not installed, BackendError if it is too old."""
    specs = {name: importlib.util.find_spec(name) for name in MODULES[library]}
    names = [name for name, spec in specs.items() if spec is not None and spec.origin is not None]  # not a bare folder
    trt = require((names or MODULES[library])[0], library)
    found = version_of(trt)
    if found < OLDEST[library]:
        least = ".".join(map(str, OLDEST[library]))
        raise BackendError(f"{library} {trt.__version__} is too old: this needs {least} or later (JetPack 6 has 10.3)")
    return trt


def version_of(trt: ModuleType) -> tuple[int, int]:
    """Major and minor version."""
    major, minor = str(trt.__version__).split(".")[:2]
    return int(major), int(minor)


def make_log(trt: ModuleType) -> Any:
    """A logger that keeps the last fault, those of each thread, and the layers that a builder logs when verbose."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.fault = self.layers = ""
            self._here = threading.local()

        def listen(self) -> list[str]:
            """The errors of this thread from now on, and until it listens again."""
            found: list[str] = []
            self._here.faults = found
            return found

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.fault = " ".join(message.split())[:500]
                getattr(self._here, "faults", []).append(self.fault)
            elif message.startswith("Layers:\n"):
                self.layers = message

    return Log()


def log_of(trt: ModuleType) -> Any:
    """The one logger of this process: TensorRT keeps the first that it is given, and it must outlive everything."""
    if _LOG_NAME not in vars(trt):
        vars(trt).setdefault(_LOG_NAME, make_log(trt))  # of two threads, one wins
    return vars(trt)[_LOG_NAME]
