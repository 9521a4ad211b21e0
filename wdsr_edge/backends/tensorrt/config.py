"""Compile options of an engine: shapes, and the options of the builder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

from ..._errors import InputError

Library = Literal["tensorrt", "tensorrt-rtx"]
Tiling = Literal["none", "fast", "moderate", "full"]
Hardware = Literal["this", "same-compute-capability", "ampere-plus"]

LARGEST_SIDE, LARGEST_BATCH = 16384, 64


class Shape(NamedTuple):
    """A batch of LR frames."""

    batch: int
    height: int
    width: int


@dataclass(frozen=True)
class Profile:
    """The shapes that an engine takes: one alone if all three are the same, which is what runs fastest."""

    least: Shape
    """The smallest, in every dimension."""
    best: Shape
    """The one that kernels are chosen for."""
    most: Shape
    """The largest, in every dimension; memory is set aside for it."""

    def __post_init__(self) -> None:
        for name in Shape._fields:
            low, middle, high = (getattr(shape, name) for shape in (self.least, self.best, self.most))
            largest = LARGEST_BATCH if name == "batch" else LARGEST_SIDE
            if not 1 <= low <= middle <= high <= largest:
                raise InputError(f"{name} of a profile must rise from 1 to at most {largest}: {low}, {middle}, {high}")

    @classmethod
    def static(cls, height: int, width: int, batch: int = 1) -> Profile:
        """For one shape alone."""
        return cls(*3 * (Shape(batch, height, width),))

    @property
    def is_static(self) -> bool:
        """True if it is for one shape alone."""
        return self.least == self.most

    def rotated(self) -> Profile:
        """The same for a camera on its side."""
        return Profile(*(Shape(s.batch, s.width, s.height) for s in (self.least, self.best, self.most)))

    def admits(self, shape: Shape) -> bool:
        """True if an engine with this profile takes ``shape``."""
        return all(low <= side <= high for low, side, high in zip(self.least, shape, self.most, strict=True))

    def __str__(self) -> str:
        def text(shape: Shape) -> str:
            return f"{f'{shape.batch}x' if shape.batch > 1 else ''}{shape.width}x{shape.height}"

        return text(self.best) if self.is_static else "-".join(map(text, (self.least, self.best, self.most)))


@dataclass(frozen=True)
class EngineConfig:
    """Compile options of an engine. Its precision is in the ONNX file."""

    profiles: tuple[Profile, ...]
    """The shapes that it takes; a shape that several take goes to the first of them."""
    workspace_mib: int | None = None
    """Memory that kernels may use, and with TensorRT for RTX all activations.

    For the GPU at hand it is at most half of what is free, which None stands for; for another one, None is no limit.
    """
    optimization_level: int = 3
    """Effort of the builder's search for fast kernels: 0 to 5."""
    aux_streams: int | None = None
    """Streams beside its own that it may run kernels in; None leaves it to TensorRT."""
    tiling: Tiling = "none"
    """Effort of the search for tiles of layers that stay in the L2 cache (TensorRT 10.13 and later)."""
    l2_limit_mib: int | None = None
    """L2 cache that such tiles may take; None is all of it."""
    hardware: Hardware = "this"
    """Other GPUs that the engine must run on as well, at a price in speed (not with TensorRT for RTX)."""
    dla: int | None = None
    """The deep learning accelerator to run on, with what it cannot run on the GPU; None is the GPU alone."""
    sm: tuple[int, ...] = ()
    """Compute capabilities to compile for on another machine, 89 for 8.9 (TensorRT for RTX); none is this GPU."""

    def __post_init__(self) -> None:
        if not self.profiles:
            raise InputError("an engine needs at least one shape: name a size")
        for name, choices in (("tiling", get_args(Tiling)), ("hardware", get_args(Hardware))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, low, high in (
            ("workspace_mib", 1, 1 << 20),
            ("optimization_level", 0, 5),
            ("aux_streams", 0, 64),
            ("l2_limit_mib", 1, 1 << 10),
            ("dla", 0, 7),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} must be from {low} to {high}, got {value}")
        if self.l2_limit_mib is not None and self.tiling == "none":
            raise InputError("l2_limit_mib is for tiling: choose fast, moderate or full as well")

    def profile_of(self, shape: Shape) -> int | None:
        """Which of the profiles takes ``shape``; None if none does."""
        return next((i for i, profile in enumerate(self.profiles) if profile.admits(shape)), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineConfig:
        """The config that ``as_dict`` gave, also after JSON."""
        profiles = tuple(
            Profile(*(Shape(*found[name]) for name in ("least", "best", "most"))) for found in values["profiles"]
        )
        others = {field.name: values[field.name] for field in fields(cls) if field.name not in ("profiles", "sm")}
        return cls(profiles=profiles, sm=tuple(values["sm"]), **others)
