"""Report on this machine: what works, found by trying it, and what to install."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ._errors import WdsrError
from ._version import __version__
from .backends import BACKENDS, COMPILED, Backend, GpuOptions, has_gpu, is_installed, open_session, version
from .backends.quiet import load_onnxruntime, quiet_options
from .backends.tensorrt import Cuda, EngineConfig, Library, Profile, open_library
from .bundle import Bundle
from .loading import find_bundle, fitting, zoo_names
from .machine import cpu, said, text
from .measuring.clocks import read_clocks
from .measuring.comparison import Size
from .measuring.first_run import FirstRun, first_run

_JETSON = "make the virtual environment with --system-site-packages and pip install 'wdsr-edge[jetson]'"
_DESKTOP = "pip install 'wdsr-edge[tensorrt]' (GeForce: 'wdsr-edge[tensorrt-rtx]' as well)"


def examine(device: int = 0) -> dict[str, Any]:
    """A JSON-ready report: versions, CPU, memory, board or GPU, engines, and advice in plain words."""
    engines = {backend: _engine(backend) if is_installed(backend) else None for backend in BACKENDS}
    clocks = read_clocks(device)
    cuda, fault = _cuda(device)
    report = {
        "wdsr-edge": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu(),
        "memory_gib": _memory_gib(),
        "board": text("/proc/device-tree/model"),
        "jetson_linux": text("/etc/nv_tegra_release"),
        "gpus": _gpus(),
        "cuda": cuda,
        "power": {**asdict(clocks), "advice": clocks.advice},
        "engines": engines,
        "onnxruntime_providers": _providers(device) if engines["onnxruntime"] else {},
        "packages": {name: _version(name) for name in ("numpy", "pillow", "cuda-bindings", "pyvips", "torch", "onnx")},
        "models": zoo_names(),
    }
    return {**report, "advice": _advice(report, fault and f"GPU {device} cannot be used: {fault}")}


def try_model(name: str, size: Size, gpu: GpuOptions, seconds: float = 1.0) -> FirstRun:
    """One model in every engine and precision here, on frames of one size (LR height, width)."""
    bundle = Bundle.load(find_bundle(name))
    config = EngineConfig((Profile.static(*size),))
    return first_run(bundle, fitting(bundle, gpu=gpu), [config], gpu=gpu, seconds=seconds)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX (learn.microsoft.com/windows/win32/api/sysinfoapi)."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("others", 6 * ctypes.c_uint64),
    )


def _memory_gib() -> float | None:
    """All of the machine's memory; None if the system does not tell."""
    if sys.platform == "win32":
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return round(status.total / 2**30, 1) if known else None
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    """Names as nvidia-smi has them; empty without it or without a GPU."""
    return said("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()


def _engine(backend: Backend) -> str:
    """An engine's version, as its package or, where that came with the system, as its module says."""
    found = version(backend)
    if not found and backend in COMPILED:
        try:
            found = str(open_library(cast(Library, backend)).__version__)
        except WdsrError as error:
            return str(error)
    return found or "of an unknown version"


def _cuda(device: int) -> tuple[str, str]:
    """The GPU as CUDA has it, or that there is none; and what is to be done where there is one that does not work."""
    try:
        gpu = Cuda(device)
        driver, runtime = (f"{number // 1000}.{number % 1000 // 10}" for number in gpu.versions)
    except WdsrError as error:
        if not has_gpu() and not _has_gpu_without_driver():
            return ("no NVIDIA GPU here" if not device else f"no GPU {device} here"), ""
        return str(error), str(error)
    kind = "shares the CPU's memory" if gpu.integrated else "memory of its own"
    memory = f"{gpu.memory / 2**30:.1f} GiB, {kind}"
    cuda = f"CUDA {runtime}, driver for up to {driver}"
    return f"{gpu.name}, compute capability {gpu.sm // 10}.{gpu.sm % 10}, {memory}; {cuda}", ""


def _has_gpu_without_driver(root: Path = Path("/")) -> bool:
    """True if a GPU of NVIDIA's (PCI vendor 10de, class 03) is in the machine, whatever the driver; Linux tells."""
    for device in root.glob("sys/bus/pci/devices/*"):
        if text(f"{device}/vendor") == "0x10de" and (text(f"{device}/class") or "").startswith("0x03"):
            return os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1")
    return False


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _providers(device: int) -> dict[str, str]:
    """ONNX Runtime's providers: ``works``, or why not. Being listed says little: any may leave all work to the CPU."""
    ort = load_onnxruntime("onnxruntime")
    names = zoo_names()
    if not names:
        return {}
    graph = Bundle.load(find_bundle(names[0])).onnx("fp32")
    ours: dict[str, Backend] = {
        "CUDAExecutionProvider": "onnxruntime-cuda",
        "TensorrtExecutionProvider": "onnxruntime-tensorrt",
    }
    found = {}
    for provider in ort.get_available_providers():
        if provider in ours:
            try:
                open_session(ours[provider], graph, gpu=GpuOptions(device)).close()
                found[provider] = "works"
            except WdsrError as error:
                found[provider] = str(error)
            continue
        options = quiet_options(ort)
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            session = ort.InferenceSession(graph, options, providers=[provider], enable_fallback=False)
            found[provider] = "works" if provider in session.get_providers() else "leaves everything to the CPU"
        except Exception as error:  # its exception types are private
            reason = str(error).strip().partition("\n")[0][:200]
            found[provider] = "leaves work to the CPU" if "fallback to CPU" in reason else reason
    return found


def _advice(report: dict[str, Any], fault: str) -> list[str]:
    advice = []
    engines, jetson = report["engines"], "jetson" in (report["board"] or "").lower()
    compiled = any(engines[backend] is not None for backend in COMPILED)
    if all(found is None for found in engines.values()):
        advice.append("no engine is installed: pip install 'wdsr-edge[onnxruntime]'")
    if has_gpu() and not compiled:
        advice.append(f"a GPU is here without TensorRT: {_JETSON if jetson else _DESKTOP}")
    if fault and (compiled or not has_gpu()):  # without TensorRT, what CUDA lacks comes with it
        advice.append(fault)
    elif has_gpu() and compiled:
        advice.append("wdsr-edge compile MODEL readies a model for this GPU; doctor --self-test tries all of them")
    advice += report["power"].pop("advice")
    if report["packages"]["pyvips"] is None:
        advice.append("16-bit RGB images are refused without pyvips: pip install 'wdsr-edge[image16]'")
    if report["packages"]["torch"] is None or report["packages"]["onnx"] is None:
        advice.append("training, export and deploy need torch and onnx: pip install 'wdsr-edge[export]'")
    return advice
