"""Compiling: one path for every release, with the names that each has, and nothing but the ONNX file sets precision."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tensorrt_standin import API, RELEASES, StandIn, calls, members, settings
from wdsr_edge import BackendError, InputError
from wdsr_edge.backends.tensorrt.build import Built, build, check_config
from wdsr_edge.backends.tensorrt.config import EngineConfig, Library, Profile, Shape
from wdsr_edge.backends.tensorrt.library import OLDEST, open_library, version_of

FULL = ("10.3.0", "10.13.0", "10.16.1", "11.0.0", "11.4.0")
CAMERA = Profile.static(270, 480)


def library_of(release: str) -> Library:
    return "tensorrt-rtx" if release.startswith("rtx") else "tensorrt"


def built(trt: StandIn, precision: str = "fp16", free_memory: int | None = None, **options: Any) -> Built:
    config = EngineConfig(**{"profiles": (CAMERA,), **options})
    return build(
        library_of(trt.release),
        trt,  # type: ignore[arg-type]
        b"onnx",
        config,
        precision=precision,
        timing_cache=b"known",
        free_memory=free_memory,
    )


def everything(release: str) -> dict[str, Any]:
    """Every option that a release has."""
    options: dict[str, Any] = {"workspace_mib": 64, "optimization_level": 5, "aux_streams": 2}
    if release != "10.3.0":
        options |= {"tiling": "full", "l2_limit_mib": 4}
    if library_of(release) == "tensorrt-rtx":
        return options | {"sm": (75, 89)}
    return options | {"hardware": "ampere-plus"}


GUARDED = {
    ("IBuilderConfig", "tiling_optimization_level"): {*RELEASES} - {"10.3.0"},
    ("IBuilderConfig", "l2_limit_for_tiling"): {*RELEASES} - {"10.3.0"},
    ("TilingOptimizationLevel", "FULL"): {*RELEASES} - {"10.3.0"},
    ("IBuilderConfig", "num_compute_capabilities"): {"rtx-1.7.1"},
    ("IBuilderConfig", "set_compute_capability"): {"rtx-1.7.1"},
    ("BuilderFlag", "REQUIRE_USER_ALLOCATION"): {"rtx-1.7.1"},
    ("ComputeCapability", "SM75"): {"rtx-1.7.1"},
    ("ComputeCapability", "SM89"): {"rtx-1.7.1"},
    ("ComputeCapability", "CURRENT"): {"rtx-1.7.1"},
    ("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY"): {*RELEASES} - {"10.3.0"},
}
"""Names that not every release has, with those that have them: used there only."""


def test_the_names_in_use_are_in_every_release_or_guarded() -> None:
    touched: set[tuple[str, str]] = set()
    for release in RELEASES:
        for options in ({}, everything(release)):
            trt = StandIn(release)
            built(trt, **options)
            touched |= trt.touched
        if release.startswith("10.3") or release == "11.4.0":
            dla = StandIn(release, dla_cores=2)
            built(dla, dla=1)
            touched |= dla.touched
        if release in FULL[1:]:
            level = StandIn(release)
            built(level, hardware="same-compute-capability")
            touched |= level.touched
    some = {(kind, name): {release for release in RELEASES if name in members(kind, release)} for kind, name in touched}
    assert {names: found for names, found in some.items() if found != {*RELEASES}} == GUARDED


@pytest.mark.parametrize("release", RELEASES)
def test_no_flag_sets_a_precision(release: str) -> None:
    trt = StandIn(release)
    built(trt, **everything(release))
    assert calls(trt.config, "set_flag") == ([["REQUIRE_USER_ALLOCATION"]] if release.startswith("rtx") else [])
    assert calls(trt.config, "clear_flag") == [["TF32"]]
    (flags,) = calls(trt.builder, "create_network")[0]
    assert flags == 1 << len("STRONGLY_TYPED")


@pytest.mark.parametrize("release", RELEASES)
def test_every_option_arrives(release: str) -> None:
    trt = StandIn(release)
    made = built(
        trt, profiles=(CAMERA, Profile(Shape(1, 64, 64), Shape(1, 96, 96), Shape(2, 128, 128))), **everything(release)
    )
    found = settings(trt.config)
    assert found["profiling_verbosity"] == "DETAILED"
    assert found["builder_optimization_level"] == 5
    assert found["max_aux_streams"] == 2
    assert calls(trt.config, "set_memory_pool_limit") == [["WORKSPACE", 64 << 20]]
    if release != "10.3.0":
        assert (found["tiling_optimization_level"], found["l2_limit_for_tiling"]) == ("FULL", 4 << 20)
    if library_of(release) == "tensorrt-rtx":
        assert found["num_compute_capabilities"] == 2
        assert calls(trt.config, "set_compute_capability") == [["SM75", 0], ["SM89", 1]]
        assert made.timing_cache == b"known"
    else:
        assert found["hardware_compatibility_level"] == "AMPERE_PLUS"
        assert made.timing_cache == b"known!"
        assert made.layers == '{"Layers": []}'
    shapes = [calls(profile, "set_shape") for profile in trt.profiles]
    assert shapes[0] == [["lr", *3 * [(1, 270, 480, 3)]]]
    assert shapes[1] == [["lr", (1, 64, 64, 3), (1, 96, 96, 3), (2, 128, 128, 3)]]
    assert made.engine == b"engine"


@pytest.mark.parametrize(("free", "asked", "given"), [(1000 << 20, None, 500), (1000 << 20, 900, 500), (None, 7, 7)])
def test_the_workspace_is_at_most_half_of_what_is_free(free: int | None, asked: int | None, given: int) -> None:
    trt = StandIn("11.4.0")
    built(trt, free_memory=free, workspace_mib=asked)
    assert calls(trt.config, "set_memory_pool_limit") == [["WORKSPACE", given << 20]]


def test_a_dla_falls_back_to_the_gpu() -> None:
    trt = StandIn("10.3.0", dla_cores=2)
    built(trt, dla=1)
    assert calls(trt.config, "set_flag") == [["GPU_FALLBACK"]]
    assert settings(trt.config)["DLA_core"] == 1
    assert settings(trt.config)["default_device_type"] == "DLA"


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("10.3.0", {"tiling": "fast"}, "fp16", "no tiling optimisation: 10.13 and later"),
    ("10.3.0", {"hardware": "same-compute-capability"}, "fp16", "10.13 and later"),
    ("10.3.0", {"dla": 2}, "fp16", "there is no DLA 2: this machine has 2"),
    ("10.3.0", {"dla": 0}, "int8", "a DLA runs FP16 alone, not the int8 graph"),
    ("10.3.0", {"dla": 0}, "fp32", "a DLA runs FP16 alone"),
    ("10.13.0", {"dla": 0}, "fp16", "has no DLA"),
    ("11.0.0", {"dla": 0}, "fp16", "has no DLA"),
    ("11.4.0", {"sm": (89,)}, "fp16", "compiles for the GPU at hand only"),
    ("rtx-1.7.1", {"hardware": "ampere-plus"}, "fp16", "no hardware compatibility"),
    ("rtx-1.7.1", {"dla": 0}, "fp16", "runs on no DLA"),
    ("rtx-1.7.1", {"sm": (87,)}, "fp16", "does not compile for SM87"),
]


@pytest.mark.parametrize(("release", "options", "precision", "words"), REFUSED)
def test_what_a_release_has_not_is_refused(release: str, options: dict[str, Any], precision: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        built(StandIn(release, dla_cores=2), precision, **options)


def test_a_dynamic_profile_is_none_for_a_dla() -> None:
    config = EngineConfig((Profile(Shape(1, 8, 8), Shape(1, 9, 9), Shape(1, 9, 9)),), dla=0)
    with pytest.raises(InputError, match="a DLA takes one shape"):
        check_config("tensorrt", (10, 3), config, "fp16")


@pytest.mark.parametrize("release", RELEASES)
def test_a_graph_that_is_refused_names_the_node(release: str) -> None:
    with pytest.raises(BackendError, match="does not take Conv node tail: too wide"):
        built(StandIn(release, fault="too wide"))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("build_serialized_network", "built no engine (build_serialized_network: no luck)"),
        ("deserialize_cuda_engine", "the engine cannot be loaded on this GPU: deserialize_cuda_engine: no luck"),
        ("add_optimization_profile", "TensorRT refused the shapes 480x270"),
    ],
)
def test_what_fails_says_why_in_one_line(method: str, words: str) -> None:
    with pytest.raises(BackendError) as caught:
        built(StandIn("11.4.0", refuse=method))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_node_without_a_name_is_told_by_its_number() -> None:
    trt = StandIn("11.4.0", fault="too wide")
    trt.error.__dict__["_state"].behaviour |= {"node_name": lambda: "", "node": lambda: 4}
    with pytest.raises(BackendError, match=r"does not take Conv node 4 \(it has no name\): too wide"):
        built(trt)


@pytest.mark.parametrize(("version", "fits"), [((10, 7), True), ((10, 8), False), ((11, 3), False), ((11, 4), True)])
def test_which_releases_have_a_dla(version: tuple[int, int], fits: bool) -> None:
    with contextlib.nullcontext() if fits else pytest.raises(InputError, match="has no DLA"):
        check_config("tensorrt", version, EngineConfig((CAMERA,), dla=0), "fp16")


@pytest.mark.parametrize("fault", ["OutOfMemory", "no tactics within the workspace limit"])
def test_too_little_workspace_says_to_give_more(fault: str) -> None:
    trt = StandIn("11.4.0", refuse="build_serialized_network", why=fault)
    with pytest.raises(BackendError, match=r"built no engine \(.*\): give more --workspace$"):
        built(trt, workspace_mib=1)


def test_a_graph_that_the_parser_says_nothing_of_is_refused() -> None:
    trt = StandIn("11.4.0", fault="x")
    trt.parser.__dict__["_state"].behaviour["num_errors"] = 0
    with pytest.raises(BackendError, match="cannot read the ONNX file"):
        built(trt)


def test_a_planar_graph_has_its_sides_last() -> None:
    trt = StandIn("11.4.0", planar=True)
    built(trt)
    assert calls(trt.profiles[0], "set_shape") == [["lr", *3 * [(1, 3, 270, 480)]]]


def test_progress_is_that_of_the_outer_phase() -> None:
    reports: list[tuple[str, int, int]] = []
    config = EngineConfig((CAMERA,))
    trt: Any = StandIn("11.4.0")
    build("tensorrt", trt, b"onnx", config, precision="fp16", on_progress=lambda *report: reports.append(report))
    assert reports == [("Building engine", 0, 2), ("Building engine", 1, 2), ("Building engine", 2, 2)]


@pytest.mark.parametrize(("library", "name"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx_bindings")])
def test_a_release_that_is_too_old_is_refused(
    library: Library, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tensorrt_rtx").mkdir()  # left behind by another package: no module
    least = OLDEST[library]
    for version, fits in ((f"{least[0]}.{least[1]}.0", True), (f"{least[0]}.{least[1] - 1}.9", False)):
        (tmp_path / f"{name}.py").write_text(f"__version__ = {version!r}")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        if fits:
            assert open_library(library).__version__ == version
        else:
            with pytest.raises(BackendError, match=f"{library} {version} is too old: this needs"):
                open_library(library)
        (tmp_path / f"{name}.py").unlink()


def test_versions_compare_as_numbers() -> None:
    assert version_of(StandIn("10.3.0")) < version_of(StandIn("10.13.0"))  # type: ignore[arg-type]


def test_the_stand_ins_know_what_went_away() -> None:
    assert "FP16" in members("BuilderFlag", "10.3.0")
    assert "FP16" not in members("BuilderFlag", "11.0.0")
    with pytest.raises(AttributeError, match="has no FP16"):
        _ = StandIn("11.0.0").BuilderFlag.FP16
    with pytest.raises(AttributeError, match="has no ComputeCapability"):
        _ = StandIn("11.0.0").ComputeCapability
    assert all(which == "all" or {*which.split()} <= {*RELEASES} for kind in API.values() for which in kind)
