"""Which engines count as there, and in which order they are tried."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from wdsr_edge import BackendError, Bundle, InputError
from wdsr_edge.backends import BACKENDS, ON_CPU, check_backend, has_gpu, installed, is_installed, version
from wdsr_edge.choices import Choice, remember
from wdsr_edge.loading import ZOO, candidates

BUNDLE = Bundle.load(ZOO / "wdsr-b-1x32-x2")


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU on which every package is installed."""
    monkeypatch.setattr("wdsr_edge.backends.registry._TENSORRT_LIBRARIES", ("libnothing.so", "libc.so.6"))
    monkeypatch.setattr("wdsr_edge.backends.registry.is_installed", lambda backend: True)
    monkeypatch.setattr("wdsr_edge.backends.registry.has_gpu", lambda: True)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("dev/nvidia0", True),
        ("dev/nvidiactl", False),
        ("dev/nvhost-gpu", True),
        ("dev/dxg", True),
        ("proc/driver/nvidia/gpus/0000:01:00.0", True),
        ("dev/null", False),
    ],
)
def test_a_gpu_is_told_by_its_files(tmp_path: Path, path: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert has_gpu(tmp_path) == there
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not has_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert has_gpu(tmp_path) == there


def test_on_windows_a_gpu_is_told_by_its_drivers_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    assert not has_gpu()
    (tmp_path / "System32").mkdir()
    (tmp_path / "System32" / "nvcuda.dll").touch()
    assert has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not has_gpu()


def test_on_windows_the_provider_looks_for_tensorrts_dlls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdsr_edge.backends.registry.is_installed", lambda backend: True)
    monkeypatch.setattr("wdsr_edge.backends.registry.has_gpu", lambda: True)
    monkeypatch.setattr(sys, "platform", "win32")
    for there, taken in (("nvinfer_10", True), ("nvinfer_11", True), ("libnvinfer.so.10", False)):
        monkeypatch.setattr("ctypes.util.find_library", lambda name, there=there: there if name == there else None)
        assert ("onnxruntime-tensorrt" in installed()) == taken


def test_without_a_gpu_only_the_cpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdsr_edge.backends.registry.is_installed", lambda backend: True)
    monkeypatch.setattr("wdsr_edge.backends.registry.has_gpu", lambda: False)
    assert installed() == list(ON_CPU)


@pytest.mark.usefixtures("everything")
def test_the_provider_that_wants_tensorrt_is_taken_only_where_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "onnxruntime-tensorrt" in installed()
    monkeypatch.setattr("wdsr_edge.backends.registry._TENSORRT_LIBRARIES", ("libnothing.so",))
    assert "onnxruntime-tensorrt" not in installed()


@pytest.mark.usefixtures("everything")
def test_the_documented_order() -> None:
    assert installed() == list(BACKENDS)
    assert [f"{engine} {kind}" for engine, kind in candidates(BUNDLE)] == [
        *("tensorrt fp16", "tensorrt int8", "tensorrt fp32"),
        *("tensorrt-rtx fp16", "tensorrt-rtx int8", "tensorrt-rtx fp32"),
        *("onnxruntime-cuda fp16", "onnxruntime-cuda int8", "onnxruntime-cuda fp32"),
        *("onnxruntime-tensorrt fp16", "onnxruntime-tensorrt int8", "onnxruntime-tensorrt fp32"),
        *("onnxruntime fp32", "openvino fp32", "onnxruntime int8", "openvino int8"),
    ]
    assert candidates(BUNDLE, precision="fp16")[-1] == ("openvino", "fp16")
    assert candidates(BUNDLE, "tensorrt", "int8") == (("tensorrt", "int8"),)


@pytest.mark.usefixtures("everything")
def test_what_was_fastest_here_comes_first() -> None:
    remember(
        BUNDLE, {Choice("tensorrt", "fp16"): 3.0, Choice("tensorrt", "int8"): 2.0, Choice("openvino", "int8"): 50.0}
    )
    found = candidates(BUNDLE)
    assert found[:2] == (("tensorrt", "int8"), ("tensorrt", "fp16"))
    assert len(set(found)) == len(found) == 16
    assert candidates(BUNDLE, "openvino")[0] == ("openvino", "int8")


def test_what_is_not_installed_is_named_when_it_is_opened() -> None:
    assert candidates(BUNDLE, "tensorrt") == (("tensorrt", "fp16"),)
    assert candidates(BUNDLE, "onnxruntime-cuda", "fp32") == (("onnxruntime-cuda", "fp32"),)
    with pytest.raises(InputError, match="backend must be one of auto, tensorrt"):
        check_backend("cuda")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision must be auto or one of"):
        candidates(BUNDLE, "tensorrt", "bf16")  # type: ignore[arg-type]


def test_a_machine_without_engines_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdsr_edge.backends.registry.is_installed", lambda backend: False)
    with pytest.raises(BackendError, match="no engine is installed"):
        candidates(BUNDLE)


def test_packages_are_told_by_their_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare folder of that name is no package; ONNX Runtime's GPU providers have a package of their own."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        if name == "tensorrt_rtx_bindings":
            return importlib.machinery.ModuleSpec(name, None, origin="x")
        return None if name.startswith(("tensorrt", "openvino")) else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert [backend for backend in BACKENDS if is_installed(backend)] == ["tensorrt-rtx", "onnxruntime"]
    bare = importlib.machinery.ModuleSpec("tensorrt", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: bare)
    assert not is_installed("tensorrt")


def test_versions_name_the_package() -> None:
    assert version("onnxruntime").startswith("onnxruntime 1.")
    assert version("tensorrt") == ""
