"""Networks between two others: the mean of their kernels, a knob of strength that costs nothing to run.

A network that is fine-tuned stays so near its start that the networks between them work as well (Wortsman et al. 2022,
"Robust fine-tuning of zero-shot models", arXiv:2109.01903): less denoising, sharper on clean pictures.
"""

from __future__ import annotations

import math
from dataclasses import fields

import torch

from .._errors import InputError
from .edsr import EDSR
from .folding import fold
from .wdsr import WDSR


@torch.no_grad()
def blend(first: EDSR | WDSR, second: EDSR | WDSR, share: float = 0.5) -> EDSR | WDSR:
    """A folded network whose kernels are ``1 - share`` of ``first``'s and ``share`` of ``second``'s, in eval mode.

    ``share`` from 0 to 1. Raises InputError if the two differ in more than their norm, ExportError if one cannot be
    folded. Only networks of which one was trained from the other have anything between them.
    """
    if not (isinstance(share, (int, float)) and math.isfinite(share) and 0 <= share <= 1):
        raise InputError(f"share must be from 0 to 1, got {share!r}")
    mixed, other = fold(first), fold(second)
    for field in fields(mixed.config):
        ours, theirs = (getattr(model.config, field.name) for model in (mixed, other))
        if ours != theirs:
            raise InputError(f"the two networks must be alike: {field.name} is {ours} in one and {theirs} in the other")
    for mine, added in zip(mixed.parameters(), other.parameters(), strict=True):
        mine.lerp_(added, share)
    return mixed
