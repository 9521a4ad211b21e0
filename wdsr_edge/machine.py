"""The parts of a machine that decide its speed: CPU, usable cores, GPUs.

Told by files and the environment, without touching CUDA: a process that has touched it cannot be forked any more.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from .backends import has_gpu

FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
"""Instruction sets that kernels of networks ask for, by the names that Linux has for them."""

_ROOT = Path("/")
_ARM = ("CPU implementer", "CPU part")


def identity() -> list[Any]:
    """Key of a machine's timings: the same after a restart and in each of its containers.

    Neither the host's name nor anything else that a container is given anew.
    """
    return [*_cpu_identity(_ROOT), usable_cores(_ROOT), *_gpu_identity(_ROOT)]


def cpu(root: Path = _ROOT) -> dict[str, Any]:
    """Model, usable cores and instruction sets, for a report."""
    values = _cpuinfo(root)
    return {
        "model": next(iter(values.get("model name", ())), "")
        or _cpu_of_macos()
        or platform.processor()
        or platform.machine(),
        "cores": usable_cores(root),
        "features": _features(values),
    }


def usable_cores(root: Path = _ROOT) -> int:
    """Cores that this process may run on; a container's share of the CPU, rounded up, if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _share(root)
    return cores if share is None else max(1, min(cores, math.ceil(share)))


def gpu_names(root: Path = _ROOT) -> list[str]:
    """Models of the NVIDIA GPUs that the driver tells of, sorted; empty where there is none."""
    if not has_gpu(root):
        return []
    files = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    found = [match[1].strip() for file in files if (match := re.search(r"^Model:(.*)$", text(file) or "", re.M))]
    if not found:
        found = [text(root / "proc/device-tree/model") or ""]  # a Jetson
    if found == [""]:
        found = said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()  # Windows, and WSL
    return sorted(found)


def text(path: str | os.PathLike[str]) -> str | None:
    """Content of a system file; None if there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def said(*command: str) -> str:
    """Output of a command; empty if it is missing or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@cache
def _cpu_identity(root: Path) -> tuple[Any, ...]:
    """Read once: a file of many cores takes milliseconds."""
    values = _cpuinfo(root)
    models = [sorted(values.get(key, ())) for key in ("model name", *_ARM)]
    board = text(root / "proc/device-tree/model") or ""
    known = board or any(models)
    return (platform.machine(), models, board, _features(values), "" if known else cpu(root)["model"])


def _gpu_identity(root: Path) -> tuple[Any, ...]:
    """Which of several GPUs is the first matters only if they differ."""
    if not has_gpu(root):
        return ([], "")
    names = _cached_gpu_names(root)
    return (sorted(set(names)), os.environ.get("CUDA_VISIBLE_DEVICES", "") if len(set(names)) > 1 else "")


_cached_gpu_names = cache(gpu_names)


def _cpuinfo(root: Path) -> dict[str, set[str]]:
    """Each key of Linux's /proc/cpuinfo with all its values: cores may differ."""
    values: dict[str, set[str]] = {}
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), set()).add(value.strip())
    return values


def _features(values: dict[str, set[str]]) -> list[str]:
    """The instruction sets that all cores have."""
    each = [set(flags.split()) for key in ("flags", "Features") for flags in values.get(key, ())]
    return [feature for feature in FEATURES if each and all(feature in flags for flags in each)]


def _share(root: Path) -> float | None:
    """The CPUs' worth of time that a control group may take; None without a limit."""
    groups = root / "sys/fs/cgroup"
    try:
        quota, period = (text(groups / "cpu.max") or "").split()
    except ValueError:  # version 1
        quota = text(groups / "cpu/cpu.cfs_quota_us") or "max"
        period = text(groups / "cpu/cpu.cfs_period_us") or "0"
    try:
        share = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max", or none
        return None
    return share if share > 0 else None


def _cpu_of_macos() -> str:
    return said("sysctl", "-n", "machdep.cpu.brand_string") if sys.platform == "darwin" else ""
