"""The engines of one graph on the GPU at hand: out of the cache, or built, and audited before they are trusted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..._errors import BackendError, InputError
from ..._files import read_regular
from ...bundle import Precision
from ...onnx_reader import read_onnx
from ..options import EngineReport, GpuOptions, SelfTest
from .audit import Audit, audit, check_graph
from .build import Built, check_config
from .build_process import build_apart
from .cache import Builder, Cached, EngineCache
from .config import EngineConfig, Library, Profile, Shape
from .cuda import Cuda
from .library import open_library, version_of
from .session import Plan, Run, TensorRtSession

_LOG = logging.getLogger("wdsr_edge")

LARGEST_BESIDE = 1 << 20
"""Bytes of the JSON beside an engine in a file."""


def open_device_session(
    library: Library, onnx: bytes, precision: Precision, gpu: GpuOptions, self_test: SelfTest | None = None
) -> TensorRtSession:
    """A session of ``library`` on a GPU, with engines out of the cache or the one that the caller vouches for.

    Raises BackendError without a GPU, MissingExtraError without the library.
    """
    trt = open_library(library)
    cuda = Cuda(gpu.device)  # before any TensorRT object
    cache = EngineCache(gpu.cache_dir)
    plans: DeviceEngines | VouchedEngine
    if gpu.engine is None:
        plans = DeviceEngines(
            library, trt, cuda, onnx, precision, cache=cache, gpu=gpu, self_test=self_test, build=build_apart
        )
    else:
        plans = VouchedEngine(gpu.engine, library, trt, onnx, self_test)
    kernels = cache.kernels(builder_of(library, trt, cuda)) if library == "tensorrt-rtx" else None
    return TensorRtSession(library, trt, cuda, plans, kernels=kernels)


def builder_of(library: Library, trt: ModuleType, cuda: Cuda) -> Builder:
    """The environment that engines for this GPU depend on."""
    return Builder(library, str(trt.__version__), cuda.name, cuda.sm)


class DeviceEngines:
    """Finds the engine for a batch's shape, for a ``TensorRtSession``."""

    def __init__(
        self,
        library: Library,
        trt: ModuleType,
        cuda: Cuda,
        onnx: bytes,
        precision: Precision,
        *,
        cache: EngineCache,
        gpu: GpuOptions | None = None,
        self_test: SelfTest | None = None,
        build: Callable[..., Built],
    ) -> None:
        """``gpu.config`` has options and profiles; a shape that none of them takes gets a static engine of its own.

        Raises InputError for options that the library has not, BundleError for a graph in another precision.
        """
        self._library, self._cuda, self._onnx, self._precision = library, cuda, onnx, precision
        self._cache, self._build, self._self_test = cache, build, self_test
        self._gpu = gpu or GpuOptions()
        self._proven: dict[Path, float | None] = {}
        check_graph(onnx, precision)
        self._planar = read_onnx(onnx).inputs["lr"][0] == "float32"
        if self._gpu.config is not None:
            check_config(library, version_of(trt), self._gpu.config, precision)
        self._builder = builder_of(library, trt, cuda)

    def __call__(self, shape: tuple[int, ...]) -> Plan:
        """The engine for batches of ``shape``, NHWC or, for a float graph, NCHW.

        Raises BackendError if it cannot be built, or if a convolution in it does not run in what it asks for.
        """
        height, width = shape[2:] if self._planar else shape[1:3]
        config = self._config_for(Shape(shape[0], height, width))
        what = f"{self._library} engine for {' and '.join(map(str, config.profiles))} in {self._precision}"

        def make(timing_cache: bytes) -> Built:
            _LOG.info("building a %s, which may take minutes, once", what)
            return self._build(
                self._library,
                self._onnx,
                config,
                precision=self._precision,
                device=self._cuda.device,
                timing_cache=timing_cache,
                on_progress=self._gpu.on_progress,
                on_retry=lambda reason: _LOG.warning("%s", reason),
            )

        found = self._cache.get(self._onnx, self._precision, config, self._builder, make, in_full=self._gpu.in_full)
        if found.built:
            self._proven.pop(found.path, None)
            _LOG.info("built the %s in %.1f s: %s", what, found.seconds, found.built)
        if found.lighter:
            _LOG.warning(
                "the %s was built with less, as at first %s: wdsr-edge compile tries again", what, found.lighter
            )
        checked = audit(self._onnx, found.layers, len(config.profiles))

        def report(golden_db: float | None) -> None:
            about = (found.built, found.lighter, found.seconds, len(found.engine), checked, golden_db)
            layers = "" if checked.passed else found.layers
            self._gpu.on_report(EngineReport(self._precision, config, *about, layers))

        def prove(run: Run) -> None:
            try:
                golden_db = self._prove(run, shape, found)
            except BackendError:
                report(None)
                raise
            report(golden_db)

        def renew(why: str) -> bool:
            if found.built:
                return False
            _LOG.warning("the %s in the cache does not load any more (%s): it is built again", what, why)
            self._cache.forget(found)
            return not found.path.exists()  # else it would come again, and again

        if not checked.passed:
            report(None)
            raise _refusal(checked, what)
        return Plan(found.engine, prove, renew)

    def _config_for(self, shape: Shape) -> EngineConfig:
        """The config asked for; else the best in the cache that takes the shape; else one for this shape alone."""
        asked, alone = self._gpu.config, (Profile.static(shape.height, shape.width, shape.batch),)
        if asked is not None:
            return asked if asked.profile_of(shape) is not None else dataclasses.replace(asked, profiles=alone)
        known = [
            c
            for c in self._cache.configs(self._onnx, self._precision, self._builder)
            if c.profile_of(shape) is not None
        ]
        fixed = [config for config in known if config.profiles == alone]
        return max(fixed or known, key=lambda config: config.optimization_level, default=EngineConfig(alone))

    def _prove(self, run: Run, shape: tuple[int, ...], found: Cached) -> float | None:
        """The self-test, once for an engine, in whatever shape first tells something."""
        if self._self_test is not None and self._proven.get(found.path) is None:
            self._proven[found.path] = self._self_test(run, shape)
        return self._proven.get(found.path)


class VouchedEngine:
    """An engine in a file, for all shapes; what ``wdsr-edge compile`` wrote beside it must fit, if it is there."""

    def __init__(
        self, path: Path, library: Library, trt: ModuleType, onnx: bytes, self_test: SelfTest | None = None
    ) -> None:
        """Raises InputError if the file cannot be read, or is not of this graph or for this library."""
        try:
            self._data = read_regular(path)
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            why = getattr(error, "strerror", None) or error
            raise InputError(f"engine {str(path)!r} cannot be read: {why}") from error
        self._self_test = self_test
        beside = read_beside(path)
        for key, mine, what in (
            ("onnx_sha256", hashlib.sha256(onnx).hexdigest(), "another model or precision"),
            ("library", f"{library} {trt.__version__}", "another library or version"),
            ("sha256", hashlib.sha256(self._data).hexdigest(), "another engine"),
        ):
            if key in beside and beside[key] != mine:
                raise InputError(f"engine {path} is of {what} ({key} {beside[key][:100]!r}): compile it again")

    def __call__(self, shape: tuple[int, ...]) -> Plan:
        """The engine, whatever the shape: the session refuses those that it does not take."""
        return Plan(self._data, lambda run: self._prove(run, shape))

    def _prove(self, run: Run, shape: tuple[int, ...]) -> None:
        if self._self_test is not None:
            self._self_test(run, shape)


def read_beside(path: Path) -> dict[str, str]:
    """Texts in the JSON file next to an engine; empty if there is none."""
    return {key: value for key, value in _read_beside(path).items() if isinstance(value, str)}


def profiles_beside(path: Path) -> tuple[Profile, ...]:
    """The shapes that an engine in a file was compiled for, as its JSON has them; nothing if there is none."""
    try:
        return EngineConfig.from_dict(_read_beside(path)["config"]).profiles
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return ()


def _read_beside(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path.with_suffix(".json"), LARGEST_BESIDE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(checked: Audit, what: str) -> BackendError:
    more = f" and {len(checked.faults) - 1} more" if checked.faults[1:] else ""
    return BackendError(
        f"the {what} is refused, as its {checked.convolutions} convolutions do not all run in what they ask for "
        f"({checked.faults[0]}{more}): choose another precision"
    )
