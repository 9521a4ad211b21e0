"""What doctor says of a GPU, and what to do about it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.command_line import wdsr_edge
from wdsr_edge import BackendError, doctor


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: int) -> None:
        raise BackendError("there is no NVIDIA driver: install one")

    monkeypatch.setattr(doctor, "Cuda", fail)
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)


def test_without_a_gpu_no_driver_is_missing() -> None:
    said = wdsr_edge("doctor").stdout
    assert "no NVIDIA GPU here" in said
    assert "driver" not in said


@pytest.mark.usefixtures("no_driver")
def test_a_gpu_without_its_driver_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.examine()["cuda"] == "no NVIDIA GPU here"
    assert not [line for line in doctor.examine()["advice"] if "driver" in line]
    monkeypatch.setattr(doctor, "_has_gpu_without_driver", lambda: True)
    found = doctor.examine(1)
    assert found["cuda"] == "there is no NVIDIA driver: install one"
    assert "GPU 1 cannot be used: there is no NVIDIA driver: install one" in found["advice"]


@pytest.mark.parametrize(
    ("vendor", "kind", "there"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),
        ("0x10de", "0x040300", False),
        ("0x8086", "0x030000", False),
    ],
)
def test_a_gpu_is_seen_on_the_bus(
    vendor: str, kind: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NVIDIA GPU, but not its sound, nor another vendor's."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    assert doctor._has_gpu_without_driver(tmp_path) == there
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not doctor._has_gpu_without_driver(tmp_path)


def test_a_gpu_that_works_is_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        name, sm, memory, integrated, versions = "Some GPU", 89, 8 << 30, False, (13000, 12090)

    monkeypatch.setattr(doctor, "Cuda", lambda device: Gpu())
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    found = doctor.examine()
    assert (
        found["cuda"]
        == "Some GPU, compute capability 8.9, 8.0 GiB, memory of its own; CUDA 12.9, driver for up to 13.0"
    )
    assert any("readies a model for this GPU" in line for line in found["advice"])


def test_memory_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(pointer: Any) -> int:
        found = pointer._obj
        assert found.length == 64, "what MEMORYSTATUSEX takes"
        found.total = 16 << 30
        return 1

    kernel32 = SimpleNamespace(GlobalMemoryStatusEx=status)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert doctor._memory_gib() == 16.0
    kernel32.GlobalMemoryStatusEx = lambda pointer: 0
    assert doctor._memory_gib() is None
