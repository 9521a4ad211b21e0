"""Options of the GPU that a model runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..bundle import Precision

if TYPE_CHECKING:
    from .tensorrt import Audit, EngineConfig


@dataclass(frozen=True)
class EngineReport:
    """A compiled engine that is ready for its first frame."""

    precision: Precision
    """The precision that its graph asks for."""
    config: EngineConfig
    """Options that it was compiled with."""
    built: str
    """Why it had to be built; empty if it came out of the cache."""
    lighter: str
    """Why it was built with less than ``config`` asks for, and with what; empty if it was not."""
    seconds: float
    """Time that building it took, now or earlier."""
    size: int
    """Its bytes."""
    audit: Audit
    """Precisions that its convolutions run in."""
    golden_db: float | None
    """PSNR of its golden frame to the reference, dB; None if it is too small for one, or was refused."""
    layers: str = ""
    """The builder's layer report, if a convolution does not run in the precision it asks for."""


@dataclass(frozen=True)
class GpuOptions:
    """Options of backends that run on a GPU; the others have none."""

    device: int = 0
    """Which GPU, as CUDA numbers them."""
    cache_dir: Path | None = None
    """Where compiled engines are kept; None is the user's cache."""
    engine: Path | None = None
    """A compiled engine that the caller vouches for: it is native code. None builds, or takes from the cache."""
    config: EngineConfig | None = None
    """Options that engines are compiled with; None takes the cached ones, or one engine for each shape."""
    in_full: bool = False
    """True if an engine in the cache that was built with less than asked for is built again."""
    allow_cpu: bool = False
    """True if ONNX Runtime may leave work to the CPU, which it otherwise must not."""
    on_report: Callable[[EngineReport], None] = lambda report: None
    """Hears of each engine that is made ready."""
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None
    """Hears of the phases of a build: name, steps done, steps in all."""


SelfTest = Callable[[Callable[[NDArray[Any]], NDArray[Any]], tuple[int, ...]], "float | None"]
"""Runs a known frame in an engine for batches of a shape: PSNR to the reference, dB, or None if the shape is too small.

Raises BackendError if that is too little.
"""
