"""The power state behind a latency: read it while the GPU is busy, and keep it with the figures.

Jetson: the developer guide's "Platform Power and Performance" (docs.nvidia.com/jetson/archives/r36.3, r38.2.1) and
NVIDIA's /etc/nvpmodel.conf, as a mode's number differs by board. Other GPUs: ``nvidia-smi --help-query-gpu``.
"""

from __future__ import annotations

import glob
import math
import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

LOW = 0.75
"""A GPU clock below this share of its maximum is worth a word."""
PATIENCE_S = 10.0
"""Timeout of a command, seconds."""

_GPUS = ("17000000.gpu", "gpu-gpc-0", "17000000.ga10b", "17000000.gv11b")
"""A Jetson's GPU in /sys/class/devfreq: Orin since JetPack 6, Thor, Orin before, Xavier. Other makers' names differ."""
_QUERY = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
_REASONS = {  # docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clocks_setting",
}
_IDLE = 0x1


@dataclass(frozen=True)
class Clocks:
    """Readings at one moment; None or empty if unavailable."""

    power_mode: str = ""
    """On a Jetson the nvpmodel mode (``MAXN_SUPER``, ``15W``), elsewhere the CPU governor (``performance``)."""
    gpu_mhz: float | None = None
    """GPU (SM) clock."""
    gpu_max_mhz: float | None = None
    """Highest GPU clock: a Jetson's in this power mode; another GPU's own, which it may not hold for long."""
    memory_mhz: float | None = None
    """GPU memory clock; a Jetson's EMC clock, which Orin tells only to root."""
    power_w: float | None = None
    """Power of the GPU's board; on a Jetson of the module (rail VDD_IN: Orin Nano and NX only)."""
    power_limit_w: float | None = None
    """Power limit of the GPU's board; None on a Jetson."""
    temperature_c: float | None = None
    """GPU temperature."""
    throttled: tuple[str, ...] = ()
    """Why the driver holds clocks down, in nvidia-smi's words, other than idleness; empty on a Jetson."""
    jetson: bool = False
    """True if nvpmodel and jetson_clocks rule here."""
    highest_mode: str = ""
    """Number and name of the Jetson's mode without limits, as its own nvpmodel.conf has them: ``2 MAXN_SUPER``."""

    @property
    def advice(self) -> list[str]:
        """Advice for trustworthy figures, a line each; empty if nothing looks wrong."""
        lines = []
        if self.gpu_mhz is not None and self.gpu_max_mhz is not None and self.gpu_mhz < LOW * self.gpu_max_mhz:
            fix = "sudo jetson_clocks" if self.jetson else "sudo nvidia-smi -lgc MHZ (undo with -rgc)"
            lines.append(f"the GPU ran at {self.gpu_mhz:g} of {self.gpu_max_mhz:g} MHz: if it was busy, {fix}")
        number, _, top = self.highest_mode.partition(" ")
        if self.jetson and not (self.power_mode == top if top else self.power_mode.startswith("MAXN")):
            show = "sudo nvpmodel -q shows it, nvpmodel -p --verbose lists all"
            fix = f"sudo nvpmodel -m {number} sets {top}" if top else show
            lines.append(f"power mode {self.power_mode or 'unknown'}: {fix}; else state it with the figures")
        if slow := ", ".join(reason for reason in self.throttled if "slowdown" in reason):
            heat = "" if self.temperature_c is None else f" at {self.temperature_c:g} C"
            lines.append(f"the GPU slows down{heat} ({slow}): see to cooling and power supply, then time again")
        if "sw_power_cap" in self.throttled:
            limit = "" if self.power_limit_w is None else f" of {self.power_limit_w:g} W"
            lines.append(f"the GPU is at its power limit{limit}: state it with the figures")
        if not self.jetson and "powersave" in self.power_mode:
            lines.append("the CPU governor is powersave: sudo cpupower frequency-set -g performance")
        return lines


def read_clocks(device: int = 0, root: Path = Path("/"), *, bus_id: str = "") -> Clocks:
    """The clocks of one GPU and the machine's power mode. Never raises; a command that hangs is given up.

    ``device`` counts as nvidia-smi does. CUDA counts so only with ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` and without
    ``CUDA_VISIBLE_DEVICES`` (docs.nvidia.com/cuda/cuda-programming-guide, CUDA Environment Variables): beside CUDA
    give ``bus_id``, as cudaDeviceGetPCIBusId has it (``0000:01:00.0``). On a Jetson both are ignored.
    ``root`` is where sys, etc and var are.
    """
    gpu = next(filter(os.path.isdir, (root / "sys/class/devfreq" / name for name in _GPUS)), None)
    mode, highest = _power_modes(root)
    jetson = gpu is not None or bool(mode)
    found = _nvidia_smi(bus_id or str(device)) if gpu is None else _jetson(root, gpu)
    return replace(found, power_mode=mode if jetson else _governor(root), jetson=jetson, highest_mode=highest)


def _power_modes(root: Path) -> tuple[str, str]:
    """A Jetson's mode, from ``nvpmodel -q`` (it needs no root) or the number it keeps; and its highest mode."""
    conf = _text(root / "etc/nvpmodel.conf")
    names = dict(re.findall(r"^<\s*POWER_MODEL ID=(\d+) NAME=(\S+)\s*>", conf, re.MULTILINE))
    said = re.search(r"NV Power Mode: *(.*\S)", _output("nvpmodel", "-q") or "")
    kept = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    mode = said[1] if said else names.get(kept[1], "") if kept else ""
    highest = (f"{number} {name}" for top in ("MAXN_SUPER", "MAXN") for number, name in names.items() if name == top)
    return mode, next(highest, "")


def _governor(root: Path) -> str:
    """The CPU governor, or all of them where cores differ."""
    found = {_text(path) for path in _paths(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_governor")}
    return ", ".join(sorted(found - {""}))


def _jetson(root: Path, gpu: Path) -> Clocks:
    emc = (root / "sys/class/devfreq/bwmgr/cur_freq", root / "sys/kernel/debug/bpmp/debug/clk/emc/rate")
    return Clocks(
        gpu_mhz=_number(_text(gpu / "cur_freq"), 1e6),
        gpu_max_mhz=_number(_text(gpu / "max_freq"), 1e6),
        memory_mhz=_first(_number(_text(path), 1e6) for path in emc),
        power_w=_first(map(_watts, _paths(root, "sys/class/hwmon/hwmon*/in*_label"))),
        temperature_c=_first(map(_celsius, _paths(root, "sys/class/thermal/thermal_zone*"))),
    )


def _watts(label: Path) -> float | None:
    """Power of the rail with this label, if it is VDD_IN (kernel.org/doc/html/latest/hwmon/ina3221.html: mV, mA)."""
    if _text(label) != "VDD_IN":
        return None
    rail = label.name.removeprefix("in").removesuffix("_label")
    volts, amperes = (_number(_text(label.with_name(f"{what}{rail}_input")), 1e3) for what in ("in", "curr"))
    return None if volts is None or amperes is None else round(volts * amperes, 3)


def _celsius(zone: Path) -> float | None:
    """Temperature of a thermal zone, if it is the GPU's: its name since JetPack 6, and before."""
    return _number(_text(zone / "temp"), 1e3) if _text(zone / "type") in ("gpu-thermal", "GPU-therm") else None


def _nvidia_smi(gpu: str) -> Clocks:
    for reasons in ("clocks_event_reasons.active", "clocks_throttle_reasons.active"):  # since driver 535, and before
        query = f"--query-gpu={','.join(_QUERY)},{reasons}"
        said = _output("nvidia-smi", f"--id={gpu}", query, "--format=csv,noheader,nounits")
        if said is None:  # absent, or hanging: not twice
            break
        *values, mask = said.strip().partition("\n")[0].split(",")
        if len(values) == len(_QUERY):
            mhz, max_mhz, memory_mhz, power_w, limit_w, temperature_c = map(_number, values)
            return Clocks("", mhz, max_mhz, memory_mhz, power_w, limit_w, temperature_c, _reasons(mask))
    return Clocks()


def _reasons(mask: str) -> tuple[str, ...]:
    try:
        bits = int(mask, 16) & ~_IDLE
    except ValueError:
        return ()
    unknown = bits & ~sum(_REASONS)
    return (*(name for bit, name in _REASONS.items() if bits & bit), *([hex(unknown)] if unknown else ()))


def _output(*command: str) -> str | None:
    """Output of a command, however it ends; None if it does not run or takes too long."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S, check=False)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except (OSError, ValueError, TypeError):  # TypeError: Python's word for EAGAIN, the answer of a sleeping sensor
        return ""


def _paths(root: Path, pattern: str) -> list[Path]:
    return [root / path for path in sorted(glob.glob(pattern, root_dir=root))]


def _number(text: str, unit: float = 1) -> float | None:
    """A finite number, or None: nvidia-smi also writes ``[N/A]`` or ``[Not Supported]``."""
    try:
        value = float(text) / unit
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _first(values: Iterable[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)
