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
from tests.wdsr_edge.backends.tensorrt.test_build import GUARDED
from wdsr_edge.backends.tensorrt import build as engine_build
from wdsr_edge.backends.tensorrt import contexts as _contexts
from wdsr_edge.backends.tensorrt import library as tensorrt_library

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


OURS: dict[ModuleType, set[str]] = {
    engine_build: {
        *("config", "config.profiles[0]", "s", "found", "shape", "log", "log.fault", "self", "self.steps", "time"),
        *("re", "error.node_operator()", "ModuleType", "timing_cache"),
    },
    _contexts: {
        *(
            "self",
            "self.context",
            "resources",
            "hashlib",
            "hashlib.sha256(plan)",
            "logging",
            "re",
            "_LOG",
            "file",
            "os",
        ),
        *(
            "self._loaded",
            "self._cuda",
            "self._log",
            "self._kernels_file",
            "fresh",
            "contextlib",
            "modes",
            "', '",
            "super()",
            "self.log",
            "'; '",
        ),
    },
    tensorrt_library: {
        *("importlib", "importlib.util", "specs", "spec", "'.'", "str(trt.__version__)", "self", "' '", "message"),
        *(
            "vars(trt)",
            "threading",
            "self._here",
            "getattr(self._here, 'faults', [])",
        ),
    },
}
"""What a name in a module may stand for beside that: things of ours and of Python's."""

BY_TILING, BY_RTX = "config.tiling != 'none'", "library == 'tensorrt-rtx'"
BRANCHES = {
    "tiling_optimization_level": BY_TILING,
    "l2_limit_for_tiling": BY_TILING,
    "TilingOptimizationLevel": BY_TILING,
    "num_compute_capabilities": BY_RTX,
    "set_compute_capability": BY_RTX,
    "ComputeCapability": BY_RTX,
    "REQUIRE_USER_ALLOCATION": BY_RTX,
}
"""The condition that each name stands under, in engine_build, that not every release has."""

EVERY = [*Path(str(engine_build.__file__)).parents[2].rglob("*.py")]


def tree_of(module: ModuleType) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text())


def names_in(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Class and member of each use of TensorRT in a module's source."""
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if owner in OBJECTS[module]:
            yield OBJECTS[module][owner], node.attr
        elif owner.startswith(("trt.", "self._trt.")):
            yield owner.rpartition(".")[2], node.attr


@pytest.mark.parametrize("module", OBJECTS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_each_thing_that_is_asked_for_something_is_known(module: ModuleType) -> None:
    """Nothing of TensorRT's hides behind another name."""
    owners = {ast.unparse(node.value) for node in ast.walk(tree_of(module)) if isinstance(node, ast.Attribute)}
    trt = {owner for owner in owners if owner.startswith(("trt", "self._trt"))}
    assert owners - trt <= {*OBJECTS[module]} | OURS[module]


def test_what_is_taken_of_the_module_itself_is_a_class_that_releases_have() -> None:
    found = set()
    for module in OBJECTS:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("trt", "self._trt"):
                found.add(node.attr)
    some = {
        "TilingOptimizationLevel",
        "ComputeCapability",
        "DynamicShapesKernelSpecializationStrategy",
        "CudaGraphStrategy",
    }
    for name in found - {"__version__"}:
        releases = {release for release in RELEASES if members(name, release)}
        assert releases == {*RELEASES} or (releases and name in some), name


def test_names_that_are_made_up_at_run_time_are_those_of_the_tables() -> None:
    found = set()
    for module in OBJECTS:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
                found.add((ast.unparse(node.args[0]), ast.unparse(node.args[1])))
    assert found == {
        ("trt.TilingOptimizationLevel", "_TILING[config.tiling]"),
        ("trt.HardwareCompatibilityLevel", "_HARDWARE[config.hardware]"),
        ("trt.ComputeCapability", "name"),
        ("self._here", "'faults'"),
    }


def test_no_other_module_touches_tensorrt() -> None:
    ours = {Path(str(module.__file__)) for module in OBJECTS}
    for path in EVERY:
        for node in ast.walk(ast.parse(path.read_text())):
            if path in ours:
                continue
            if isinstance(node, ast.Assign):
                assert ast.unparse(node.value) not in ("trt", "self._trt") or ast.unparse(node).count("self._trt") == 1
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("open_library("):
                assert node.attr == "__version__", f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("trt", "self._trt"):
                assert node.attr == "__version__", f"{path.name}:{node.lineno}"


def test_names_by_choice_are_there() -> None:
    newer = {*RELEASES} - {"10.3.0"}
    for release in newer:
        assert {*engine_build._TILING.values()} <= members("TilingOptimizationLevel", release)
    for release in newer - ONLY_RTX:
        assert {*engine_build._HARDWARE.values()} <= members("HardwareCompatibilityLevel", release)
    assert {*engine_build._HARDWARE.values()} - members("HardwareCompatibilityLevel", "10.3.0") == {
        "SAME_COMPUTE_CAPABILITY"
    }


def test_what_only_some_releases_have_stands_under_its_condition() -> None:
    seen: set[str] = set()

    def look(node: ast.AST, conditions: tuple[str, ...]) -> None:
        if isinstance(node, ast.Attribute) and node.attr in BRANCHES:
            seen.add(node.attr)
            assert BRANCHES[node.attr] in conditions, f"{node.attr} in line {node.lineno}"
        if isinstance(node, ast.If):
            look(node.test, conditions)
            for part in node.body:
                look(part, (*conditions, ast.unparse(node.test)))
            for part in node.orelse:
                look(part, conditions)
            return
        for part in ast.iter_child_nodes(node):
            look(part, conditions)

    look(tree_of(engine_build), ())
    assert seen == {*BRANCHES}
    only_rtx = {name for _, name in AT_RUN_TIME}
    for function in (node for node in ast.walk(tree_of(_contexts)) if isinstance(node, ast.FunctionDef)):
        used = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)} & only_rtx
        assert not used or function.name in ("_strategy", "_read_kernels", "write_kernels"), function.name


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
