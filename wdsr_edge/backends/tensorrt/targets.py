"""Devices that engines are compiled for by name; each is a file in export/targets."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ..._errors import InputError
from ..._files import read_toml
from ...bundle import Precision
from .config import EngineConfig, Library

FOLDERS = (Path(__file__).parents[2] / "targets", Path(__file__).parents[3] / "export" / "targets")
"""Where they lie: in an installed package, in a checkout."""


@dataclass(frozen=True)
class Target:
    """A device."""

    name: str
    """Name in this project."""
    device: str
    """The vendor's name."""
    library: Library
    """Library that compiles for it: TensorRT for RTX on any machine, TensorRT only on the device itself."""
    sm: int
    """Its compute capability, 89 for 8.9."""
    dla_cores: int = 0
    """Number of deep learning accelerators it has (NVIDIA's data sheets of the modules)."""


def target_names() -> list[str]:
    """The devices that ``find_target`` knows."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.toml")})


def find_target(name: str) -> Target:
    """The device of that name; InputError lists those there are."""
    if name not in target_names():
        raise InputError(f"no target {name!r}: choose one of {', '.join(target_names())}")
    path = next(folder / f"{name}.toml" for folder in FOLDERS if (folder / f"{name}.toml").is_file())
    table = read_toml(path)
    assert table["library"] in get_args(Library), path
    return Target(name, table["device"], table["library"], table["sm"], table.get("dla_cores", 0))


def compile_line(bundle: str, kinds: Sequence[Precision], config: EngineConfig) -> str:
    """The same with ``wdsr-edge compile`` on the device: as engines in its cache, proven and timed."""
    parts = ["wdsr-edge compile", shlex.quote(bundle), "--backend tensorrt"]
    parts += [f"--precision {kind}" for kind in kinds]
    for found in config.profiles:
        sizes = (f"{shape.width}x{shape.height}" for shape in (found.least, found.best, found.most))
        parts.append(f"--size {found}" if found.is_static else f"--profile {','.join(sizes)}")
    for option, value, usual in (
        ("workspace", config.workspace_mib, None),
        ("optimization", config.optimization_level, 3),
        ("aux-streams", config.aux_streams, None),
        ("dla", config.dla, None),
    ):
        parts += [f"--{option} {value}"] if value != usual else []
    return " ".join(parts)


def trtexec_line(onnx: str, engine: str, config: EngineConfig) -> str:
    """Command that builds the same engine on the device with trtexec (NVIDIA, TensorRT command-line programs).

    Raises InputError for tiling and hardware compatibility, which not every TensorRT on a device has.
    """
    for option, value, usual in (("tiling", config.tiling, "none"), ("hardware", config.hardware, "this")):
        if value != usual:
            raise InputError(f"--{option} is not passed on to a device that compiles for itself: leave it out")
    parts = [
        f"trtexec {shlex.quote(f'--onnx={onnx}')} {shlex.quote(f'--saveEngine={engine}')}",
        "--stronglyTyped --noTF32 --profilingVerbosity=detailed",
        f"--builderOptimizationLevel={config.optimization_level}",
    ]
    for i, profile in enumerate(config.profiles):
        parts += [f"--profile={i}"] if config.profiles[1:] else []
        for name, shape in (("min", profile.least), ("opt", profile.best), ("max", profile.most)):
            parts.append(f"--{name}Shapes=lr:{'x'.join(map(str, (*shape, 3)))}")
    if config.workspace_mib is not None:
        parts.append(f"--memPoolSize=workspace:{config.workspace_mib}M")
    if config.aux_streams is not None:
        parts.append(f"--maxAuxStreams={config.aux_streams}")
    if config.dla is not None:
        parts.append(f"--useDLACore={config.dla} --allowGPUFallback")
    return " ".join(parts)
