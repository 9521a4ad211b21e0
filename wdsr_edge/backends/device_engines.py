"""The engines of one graph on the GPU at hand: out of the cache, or built, and audited before they are trusted."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from types import ModuleType

from .._errors import BackendError
from ..bundle import Precision
from ._cuda import Cuda
from .audit import audit
from .build_process import build_apart
from .engine_build import Built, check_config
from .engine_cache import Builder, EngineCache
from .engine_config import EngineConfig, Library, Profile, Shape
from .tensorrt_library import version_of

_LOG = logging.getLogger("wdsr_edge")


class DeviceEngines:
    """What a ``TensorRtSession`` asks for the engine of a batch's shape."""

    def __init__(
        self,
        library: Library,
        trt: ModuleType,
        cuda: Cuda,
        onnx: bytes,
        precision: Precision,
        *,
        cache: EngineCache,
        config: EngineConfig | None = None,
        build: Callable[..., Built] = build_apart,
    ) -> None:
        """``config`` has options and profiles; a shape that none of them takes gets a static engine of its own.

        Raises InputError for options that the library has not.
        """
        self._library, self._cuda, self._onnx, self._precision = library, cuda, onnx, precision
        self._cache, self._build = cache, build
        self._config = config
        if config is not None:
            check_config(library, version_of(trt), config, precision)
        self._builder = Builder(library, str(trt.__version__), cuda.name, cuda.sm)

    def __call__(self, shape: tuple[int, ...]) -> bytes:
        """The serialised engine for batches of ``shape``, NHWC or NCHW.

        Raises BackendError if it cannot be built, or if a convolution in it does not run in what it asks for.
        """
        height, width = shape[1:3] if shape[-1] == 3 else shape[2:]
        config = self._config_for(Shape(shape[0], height, width))
        found = self._cache.get(
            self._onnx, self._precision, config, self._builder, lambda timing: self._make(config, timing)
        )
        if found.built:
            _LOG.info("built an engine for %s in %s: %s", config.profiles[0], self._precision, found.built)
        checked = audit(self._onnx, found.layers, len(config.profiles))
        if not checked.passed:
            raise BackendError(
                f"the engine is refused, as {len(checked.faults)} of {checked.convolutions} convolutions do not run in "
                f"what they ask for ({checked.faults[0]}): choose another precision"
            )
        return found.engine

    def _config_for(self, shape: Shape) -> EngineConfig:
        alone = (Profile.static(shape.height, shape.width, shape.batch),)
        if self._config is None:
            return EngineConfig(alone)
        if self._config.profile_of(shape) is None:
            return dataclasses.replace(self._config, profiles=alone)
        return self._config

    def _make(self, config: EngineConfig, timing_cache: bytes) -> Built:
        return self._build(
            self._library,
            self._onnx,
            config,
            precision=self._precision,
            device=self._cuda.device,
            timing_cache=timing_cache,
            on_retry=lambda reason: _LOG.warning("%s", reason),
        )
