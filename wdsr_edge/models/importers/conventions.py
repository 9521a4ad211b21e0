"""Input conventions of each project, which weights files do not hold."""

from __future__ import annotations

from typing import NamedTuple

from ...config import DIV2K_MEAN
from .matching import Match


class Convention(NamedTuple):
    """RGB in [0, 1] becomes ``(x - mean) / std`` before the network; after it, that is undone."""

    mean: tuple[float, float, float]
    std: float


class Origin(NamedTuple):
    """A project whose layout of files is known."""

    name: str
    convention: Convention


_HALF, _ZERO = (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)

KERAS = Origin("krasserm/super-resolution (Keras)", Convention(DIV2K_MEAN, 0.5))
JIAHUIYU = Origin("JiahuiYu/wdsr_ntire2018", Convention(DIV2K_MEAN, 0.5))
YCHFAN = Origin("ychfan/wdsr", Convention(_HALF, 1.0))
EDSR_PYTORCH = Origin("EDSR-PyTorch or BasicSR", Convention(DIV2K_MEAN, 1 / 255))
UNKNOWN = Origin("unknown, taken to be as JiahuiYu/wdsr_ntire2018", JIAHUIYU.convention)

CONVENTIONS = (
    Convention(DIV2K_MEAN, 0.5),
    Convention(_HALF, 1.0),
    Convention(DIV2K_MEAN, 1.0),
    Convention(DIV2K_MEAN, 1 / 255),
    Convention(_HALF, 0.5),
    Convention(_ZERO, 1.0),
    Convention(_ZERO, 1 / 255),
)
"""Those in use, known origins first."""


def origin_of(found: Match) -> Origin:
    """The project whose module names a state dict has, told from where they part."""
    if found.config.arch == "edsr":
        return EDSR_PYTORCH
    names = zip(*(found.convs[i].layer.split(".") for i in (0, 1, -2, -1)), strict=False)
    head, block, tail, skip = next((parts for parts in names if len(set(parts)) > 1), ("", "", "", ""))
    if head == block == tail != skip:
        return YCHFAN
    apart = len({head, block, tail, skip}) == 4 and not any(part.isdecimal() for part in (head, block, tail, skip))
    return JIAHUIYU if apart else UNKNOWN
