"""Quality lost to quantisation: dB of PSNR on luma to ground truth, over held-out images of each content."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from wdsr_edge._errors import InputError
from wdsr_edge.data.pairs import Pair
from wdsr_edge.evaluation import Upscale, psnr_y
from wdsr_edge.images.files import Rgb
from wdsr_edge.models import reference

from .network import Network
from .placement import Placement
from .samples import PHOTOGRAPHS, Contents

EXACT_DB = 35.0
"""Above this, the unquantised network's PSNR says nothing of a picture: flats and gradients come back as they were."""


@dataclass(frozen=True)
class Budget:
    """Largest loss that INT8 may cause."""

    photographs_db: float = 0.02
    """Mean drop over photographs, dB."""
    drawn_db: float = 0.05
    """Mean drop over the pictures of each drawn kind, dB."""
    worst_db: float = 0.1
    """Drop of any one drawn picture, dB."""
    to_fp32_db: float = 48.0
    """PSNR on luma to the unquantised network's picture that a drawn one which comes back exactly must keep, dB."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"the budget must be a number of dB from 0 up, got {value} for {name}")

    def with_slack(self, decibels: float) -> Budget:
        """The same with so much more of everything, as engines round differently."""
        return Budget(
            self.photographs_db + decibels,
            self.drawn_db + decibels,
            self.worst_db + decibels,
            max(0.0, self.to_fp32_db - 100 * decibels),
        )

    def excess(self, losses: Mapping[str, Loss]) -> float:
        """The largest share of its budget that anything takes: at most 1 where all is within."""
        return max(self.shares(losses).values())

    def shares(self, losses: Mapping[str, Loss]) -> dict[str, float]:
        """The share of its budget that each figure takes, by what it is of, such as ``text, the worst picture``."""
        shares = {PHOTOGRAPHS: share(losses[PHOTOGRAPHS].mean_db, self.photographs_db)}
        for kind in losses.keys() - {PHOTOGRAPHS}:
            shares[kind] = share(losses[kind].mean_db, self.drawn_db)
            shares[f"{kind}, the worst picture"] = share(losses[kind].worst_db, self.worst_db)
            shares[f"{kind}, to FP32"] = 10 ** ((self.to_fp32_db - losses[kind].to_fp32_db) / 20)
        return shares


def share(cost: float, budget: float) -> float:
    """``cost`` as a share of ``budget``; a gain costs nothing."""
    return max(cost, 0.0) / budget if budget else (0.0 if cost <= 0 else math.inf)


@dataclass(frozen=True)
class Loss:
    """Quality that one content loses."""

    mean_db: float
    """PSNR on luma to ground truth lost, the mean over the images; negative if INT8 happens to be better.

    Of drawn kinds, images that the unquantised network brings back to more than EXACT_DB are left out.
    """
    worst_db: float
    """The most that any of these images loses, dB."""
    to_fp32_db: float
    """PSNR on luma to the unquantised network's picture, the least of the images that were left out; infinite if none
    was."""


def mean_psnr_y(upscale: Upscale, pairs: Sequence[Pair]) -> float:
    """PSNR on luma of ``upscale``, dB, the mean over ``pairs``."""
    return sum(psnr_y(pair, upscale(pair.lr)) for pair in pairs) / len(pairs)


class Drop:
    """Measures placements of networks against ``target``, the unquantised model, on ``held_out``."""

    def __init__(self, target: nn.Module, held_out: Contents) -> None:
        self.held_out = held_out
        upscale = reference(target)
        self.expected = {content: [upscale(pair.lr) for pair in pairs] for content, pairs in held_out.items()}

    def __call__(self, network: Network, placement: Placement) -> dict[str, Loss]:
        """Loss of each content with ``network`` placed this way."""
        placement.apply(network)
        return self.of(reference(network))

    def of(self, upscale: Upscale) -> dict[str, Loss]:
        """The same of a picture maker of any kind."""
        return {
            content: loss(pairs, self.expected[content], [upscale(pair.lr) for pair in pairs], content)
            for content, pairs in self.held_out.items()
        }


def loss(pairs: Sequence[Pair], expected: Sequence[Rgb], found: Sequence[Rgb], content: str) -> Loss:
    """Loss of ``found`` against the unquantised network's pictures of ``pairs``."""
    drops, exact = [], [math.inf]
    for pair, full, short in zip(pairs, expected, found, strict=True):
        base = psnr_y(pair, full)
        if content == PHOTOGRAPHS or base <= EXACT_DB:
            drops.append(base - psnr_y(pair, short))
        else:
            exact.append(psnr_y(Pair(pair.name, pair.lr, full), short))
    return Loss(sum(drops) / max(1, len(drops)), max(drops, default=0.0), min(exact))
