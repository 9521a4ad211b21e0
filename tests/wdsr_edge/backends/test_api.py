"""Every name of TensorRT's that the code has, in whatever branch, against the lists of what each release has.

The other tests check the names that they come by (a stand-in has those of one release); this one reads the source.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.tensorrt_standin import RELEASES, members
from tests.wdsr_edge.backends.test_engine_build import GUARDED
from wdsr_edge.backends import _contexts, engine_build, tensorrt_library

OBJECTS: dict[ModuleType, dict[str, str]] = {
    engine_build: {
        "builder": "Builder",
        "builder_config": "IBuilderConfig",
        "builder_config.get_timing_cache()": "ITimingCache",
        "network": "INetworkDefinition",
        "lr": "ITensor",
        "parser": "OnnxParser",
        "error": "ParserError",
        "profile": "IOptimizationProfile",
        "runtime": "Runtime",
        "loaded": "ICudaEngine",
        "loaded.create_engine_inspector()": "EngineInspector",
    },
    _contexts: {
        "self._runtime": "Runtime",
        "engine": "ICudaEngine",
        "context": "IExecutionContext",
        "self.context": "IExecutionContext",
        "config": "IRuntimeConfig",
        "self._kernels": "IRuntimeCache",
    },
    tensorrt_library: {},
}
"""Which of TensorRT's classes a name in a module stands for."""

ONLY_RTX = {"rtx-1.7.1"}
AT_RUN_TIME = {
    ("ICudaEngine", "create_runtime_config"): {*RELEASES} - {"10.3.0"},
    ("IRuntimeConfig", "set_execution_context_allocation_strategy"): {*RELEASES} - {"10.3.0"},
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"): ONLY_RTX,
    ("IRuntimeConfig", "cuda_graph_strategy"): ONLY_RTX,
    ("IRuntimeConfig", "create_runtime_cache"): ONLY_RTX,
    ("IRuntimeConfig", "set_runtime_cache"): ONLY_RTX,
    ("IRuntimeCache", "serialize"): ONLY_RTX,
    ("IRuntimeCache", "deserialize"): ONLY_RTX,
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"): ONLY_RTX,
    ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"): ONLY_RTX,
    ("CudaGraphStrategy", "DISABLED"): ONLY_RTX,
}
"""Names that running an engine uses and not every release has, all of them with TensorRT for RTX alone."""


def names_in(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Class and member of each use of TensorRT in a module's source."""
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if owner in OBJECTS[module]:
            yield OBJECTS[module][owner], node.attr
        elif owner.startswith(("trt.", "self._trt.")):
            yield owner.rpartition(".")[2], node.attr


@pytest.mark.parametrize("module", OBJECTS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_each_is_in_every_release_or_guarded(module: ModuleType) -> None:
    found = {names for names in names_in(module) if names[1] != "__init__"}
    assert found
    has = {names: {release for release in RELEASES if names[1] in members(names[0], release)} for names in found}
    some = {names: releases for names, releases in has.items() if releases != {*RELEASES}}
    guarded = AT_RUN_TIME if module is _contexts else GUARDED
    assert some.items() <= guarded.items()
    if module is _contexts:
        assert some == AT_RUN_TIME


def test_the_source_is_read() -> None:
    """A name that is nowhere would be found."""
    built = {*names_in(engine_build)}
    assert ("IBuilderConfig", "set_memory_pool_limit") in built
    assert ("ITimingCache", "serialize") in built
    assert ("EngineInspector", "get_engine_information") in built
    assert ("IExecutionContext", "execute_async_v3") in {*names_in(_contexts)}
    assert ("ILogger", "INTERNAL_ERROR") in {*names_in(tensorrt_library)}
