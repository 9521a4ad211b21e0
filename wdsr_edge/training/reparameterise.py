"""Reparameterised training: each 3x3 and 5x5 kernel as a sum of branches, which fold into one kernel afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator

from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from .._errors import InputError
from ..models import EDSR, WDSR, build, fold, save_checkpoint
from ..models.layers import Branches
from .transfer import config_of_start, transfer

RATE = 0.1
"""Learning rate of branches, as a share of that of kernels: at the same rate, they lead training astray."""


def reparameterise(model: EDSR | WDSR) -> EDSR | WDSR:
    """``model`` with new branches on each kernel larger than 1x1, in place; it computes what it did.

    Raises InputError for a network with batch norm, whose kernels have no scale of their own.
    """
    if model.config.norm == "batch":
        raise InputError("reparameterize goes with norm weight or none: branches beside a batch norm gain nothing")
    for conv in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        outputs, inputs, size, _ = conv.weight.shape
        if size > 1:
            # unsafe skips a trial call, which would run the branches of a kernel that weight norm makes
            register_parametrization(conv, "weight", Branches(outputs, inputs, size), unsafe=True)
    return model


def branches(model: nn.Module) -> Iterator[nn.Parameter]:
    """Every parameter of the branches of ``model``."""
    for module in model.modules():
        if isinstance(module, Branches):
            yield from module.parameters()


def collapsed(model: EDSR | WDSR) -> EDSR | WDSR:
    """A network like that ``model`` was before it got branches, which computes what ``model`` does now, to rounding."""
    folded = fold(model)
    plain = build(config_of_start(model.config, folded.config))
    transfer(folded, plain)
    return plain.eval()


def save_collapsed(model: EDSR | WDSR, path: str | os.PathLike[str]) -> None:
    """``save_checkpoint`` of the network without branches."""
    save_checkpoint(collapsed(model), path)
