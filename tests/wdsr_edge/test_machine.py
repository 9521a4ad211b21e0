"""What decides how fast a machine is, and what does not."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wdsr_edge import machine

INTEL = "model name\t: Intel(R) Core(TM) i5\nflags\t\t: fpu avx2 avx512_vnni {more}\ncpu MHz : {mhz}\n\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system of files in which there is nothing yet."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "said", lambda *command: "")
    return tmp_path


@pytest.fixture
def write(root: Path) -> Callable[[str, str], None]:
    def write(name: str, text: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        machine._cpu_identity.cache_clear()
        machine._cached_gpu_names.cache_clear()

    return write


Write = Callable[[str, str], None]


def test_the_hosts_name_does_not_matter(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a container gets anew at each start; nor does the clock that the CPU runs at, nor its order of cores."""
    write("proc/cpuinfo", INTEL.format(more="sse", mhz=800) + INTEL.format(more="sse", mhz=900))
    before = machine.identity()
    for module, name in ((platform, "node"), (socket, "gethostname")):
        monkeypatch.setattr(module, name, lambda: "another")
    monkeypatch.setenv("HOSTNAME", "another")
    write("proc/cpuinfo", INTEL.format(more="sse", mhz=3000) + INTEL.format(more="sse", mhz=2000))
    assert machine.identity() == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proc/cpuinfo", INTEL.format(more="amx_int8", mhz=1)),
        ("proc/cpuinfo", INTEL.format(more="", mhz=1).replace("i5", "i7")),
        ("sys/fs/cgroup/cpu.max", "150000 100000"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
        ("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA L4\nIRQ: 1\n"),
        ("proc/device-tree/model", "Raspberry Pi 5\0"),
    ],
    ids=["instruction sets", "CPU", "share", "no limit", "GPU", "board"],
)
def test_what_matters(write: Write, name: str, text: str) -> None:
    write("proc/cpuinfo", INTEL.format(more="", mhz=1))
    before = machine.identity()
    write(name, text)
    assert (machine.identity() == before) == (text == "-1")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu.max": "1 0"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_containers_share_bounds_the_cores(root: Path, write: Write, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        write(f"sys/fs/cgroup/{name}", text)
    assert machine.usable_cores(root) == cores


def test_which_gpu_is_first_matters_only_where_they_differ(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for number in (1, 2):
        write(f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information", "Model: NVIDIA L4")
    before = machine.identity()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.identity() == before
    write("proc/driver/nvidia/gpus/0000:02:00.0/information", "Model: NVIDIA T4")
    second = machine.identity()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert machine.identity() != second
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert machine.identity()[-2:] == [[], ""]


def test_no_gpu_is_asked_for_where_there_is_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*command: str) -> Any:
        raise AssertionError(command)

    monkeypatch.setattr(machine, "said", asked)
    monkeypatch.setattr(machine, "has_gpu", lambda *root: False)
    assert machine.gpu_names(root) == []


def test_a_gpu_that_no_file_names_is_asked_of_its_driver(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_gpu", lambda *root: True)
    monkeypatch.setattr(machine, "said", lambda *command: "NVIDIA B\nNVIDIA A")
    assert machine.gpu_names(root) == ["NVIDIA A", "NVIDIA B"]


def test_a_report_names_the_cpu(root: Path, write: Write) -> None:
    write("proc/cpuinfo", INTEL.format(more="avx", mhz=1))
    assert machine.cpu(root) == {
        "model": "Intel(R) Core(TM) i5",
        "cores": 8,
        "features": ["avx", "avx2", "avx512_vnni"],
    }
