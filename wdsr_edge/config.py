"""Network configuration: the exact name, the convolutions, and all that follows from them.

Free of torch, because the device runtime reads the halo and the scale from here as well.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ._errors import InputError

Arch = Literal["edsr", "wdsr-a", "wdsr-b"]
Norm = Literal["auto", "weight", "batch", "none"]
ExpansionConv = Literal["dense", "group", "depthwise"]

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
GROUPS = 4
"""Groups of an ``expansion_conv="group"`` convolution."""

_NAME = re.compile(r"(edsr|wdsr-a|wdsr-b)-([1-9][0-9]{0,3})x([1-9][0-9]{0,3})-x([234])")
_PAPER_EXPANSION: Mapping[str, int] = {"edsr": 1, "wdsr-a": 4, "wdsr-b": 6}


class ConvShape(NamedTuple):
    """One convolution of the deployed network."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    groups: int
    pixels: int
    """Positions at which it is evaluated for each LR pixel (more than 1 behind an upsampler)."""

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.outputs * (self.inputs // self.groups * self.kernel**2 + 1)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for each LR pixel."""
        return self.pixels * self.outputs * self.inputs // self.groups * self.kernel**2


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and numbers of a network; hashable, and written into every checkpoint, graph and bundle."""

    arch: Arch
    """``edsr``, ``wdsr-a`` (wide 3x3 pairs, paper section 3.1) or ``wdsr-b`` (low-rank, section 3.2)."""
    blocks: int
    """Residual blocks, 1 to 9999."""
    channels: int
    """Channels of the residual stream, 1 to 9999."""
    scale: int
    """2, 3 or 4."""
    expansion: int = 0
    """Width before the ReLU as a multiple of ``channels``; 0 takes the paper's: 4 (A), 6 (B); 1 for EDSR."""
    low_rank: float = 0.8
    """WDSR-B: channels between its 1x1 and 3x3 as a share of ``channels``, rounded down."""
    norm: Norm = "auto"
    """``weight``, ``batch`` or ``none``; ``auto`` is ``weight`` for WDSR and ``none`` for EDSR, as published."""
    expansion_conv: ExpansionConv = "dense"
    """First convolution of a block: ``dense``, ``group`` (4 groups) or ``depthwise`` (one group per channel)."""
    mean: tuple[float, float, float] = DIV2K_MEAN
    """RGB in [0, 1], subtracted before the network and added after it."""
    std: float = 0.5
    """Divides after the mean is subtracted."""
    res_scale: float = 1.0
    """Factor on each block's residual branch."""

    def __post_init__(self) -> None:
        for name, choices in (("arch", Arch), ("norm", Norm), ("expansion_conv", ExpansionConv)):
            if getattr(self, name) not in get_args(choices):
                raise InputError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        for name, top in (("blocks", 9999), ("channels", 9999), ("expansion", 64)):
            value = getattr(self, name)
            least = 0 if name == "expansion" else 1
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= top:
                raise InputError(f"{name} must be an integer from {least} to {top}, got {value!r}")
        if type(self.scale) is not int or self.scale not in (2, 3, 4):
            raise InputError(f"scale must be 2, 3 or 4, got {self.scale!r}")
        mean = tuple(self.mean) if isinstance(self.mean, (list, tuple)) else ()
        if len(mean) != 3 or not all(_is_between(value, 0, 1) for value in mean):
            raise InputError(f"mean must be three numbers from 0 to 1, got {self.mean!r}")
        for name, lowest, highest in (("low_rank", 1e-4, 1.0), ("std", 1e-3, 1e3), ("res_scale", 1e-4, 1e3)):
            if not _is_between(getattr(self, name), lowest, highest):
                raise InputError(f"{name} must be a number from {lowest:g} to {highest:g}, got {getattr(self, name)!r}")
        if self.arch == "wdsr-b" and self.low_rank_channels < 1:
            raise InputError(f"low_rank {self.low_rank!r} leaves nothing of {self.channels} channels")
        if self.expansion_conv == "group" and self.channels % GROUPS:
            raise InputError(f"expansion_conv 'group' needs channels divisible by {GROUPS}, got {self.channels}")
        if self.arch == "edsr" and self.expansion > 1:
            raise InputError("edsr has no expansion: leave it 0 or 1")
        object.__setattr__(self, "mean", tuple(float(value) for value in mean))
        object.__setattr__(self, "expansion", self.expansion or _PAPER_EXPANSION[self.arch])
        if self.norm == "auto":
            object.__setattr__(self, "norm", "none" if self.arch == "edsr" else "weight")

    @classmethod
    def from_name(cls, name: str) -> ModelConfig:
        """The config of an exact model name such as ``wdsr-b-3x32-x2``, the paper's defaults for the rest."""
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise InputError(
                f"{name!r} is not a model name: expected ARCH-BLOCKSxCHANNELS-xSCALE such as wdsr-b-3x32-x2, "
                "with ARCH edsr, wdsr-a or wdsr-b and SCALE 2, 3 or 4"
            )
        arch, blocks, channels, scale = match.groups()
        return cls(arch, int(blocks), int(channels), int(scale))  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, values: object) -> ModelConfig:
        """The config from decoded JSON; unknown or missing keys raise InputError."""
        if not isinstance(values, dict):
            raise InputError(f"config must be an object, got {type(values).__name__}")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(str(key) for key in values.keys() - fields.keys())
        missing = sorted({"arch", "blocks", "channels", "scale"} - values.keys())
        if unknown or missing:
            raise InputError(f"config has unknown keys {unknown} or lacks {missing}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; ``from_dict`` reads them back."""
        return {**dataclasses.asdict(self), "mean": list(self.mean)}

    @property
    def name(self) -> str:
        """The exact model name, ``ARCH-BLOCKSxCHANNELS-xSCALE``."""
        return f"{self.arch}-{self.blocks}x{self.channels}-x{self.scale}"

    @property
    def low_rank_channels(self) -> int:
        """WDSR-B: channels between its 1x1 and its 3x3."""
        return math.floor(self.channels * self.low_rank + 1e-9)

    @property
    def expansion_groups(self) -> int:
        """Groups of each block's first convolution."""
        return {"dense": 1, "group": GROUPS, "depthwise": self.channels}[self.expansion_conv]

    @property
    def halo(self) -> int:
        """Receptive-field radius in LR pixels: with this many real pixels around it, a tile is exact."""
        if self.arch == "edsr":
            return 4 + 2 * self.blocks
        return 2 + self.blocks * (2 if self.arch == "wdsr-a" else 1)

    @property
    def parameters(self) -> int:
        """Weights and biases of the deployed network (norms folded, before any padding)."""
        return sum(conv.parameters for conv in self.convs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the deployed network for each LR pixel."""
        return sum(conv.macs for conv in self.convs)

    @property
    def convs(self) -> tuple[ConvShape, ...]:
        """The deployed network's convolutions, in the order in which the model modules hold them."""
        c, s, wide, groups = self.channels, self.scale, self.channels * self.expansion, self.expansion_groups
        convs = [ConvShape("head", 3, c, 3, 1, 1)]
        for block in range(self.blocks):
            shapes = {
                "edsr": [(c, c, 3, groups), (c, c, 3, 1)],
                "wdsr-a": [(c, wide, 3, groups), (wide, c, 3, 1)],
                "wdsr-b": [
                    (c, wide, 1, groups),
                    (wide, self.low_rank_channels, 1, 1),
                    (self.low_rank_channels, c, 3, 1),
                ],
            }[self.arch]
            convs += [ConvShape(f"body.{block}.{i}", *shape, 1) for i, shape in enumerate(shapes)]
        if self.arch != "edsr":
            outputs = 3 * s * s
            return (*convs, ConvShape("tail", c, outputs, 3, 1, 1), ConvShape("skip", 3, outputs, 5, 1, 1))
        convs.append(ConvShape("body_end", c, c, 3, 1, 1))
        pixels = 1
        for stage, factor in enumerate(upsampler_factors(s)):
            convs.append(ConvShape(f"upsampler.{stage}", c, c * factor**2, 3, 1, pixels))
            pixels *= factor**2
        return (*convs, ConvShape("tail", c, 3, 3, 1, pixels))


def upsampler_factors(scale: int) -> tuple[int, ...]:
    """EDSR's pixel-shuffle stages: x4 is x2 twice."""
    return (2, 2) if scale == 4 else (scale,)


def _is_between(value: object, least: float, most: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
