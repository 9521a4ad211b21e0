"""The networks that the suites time, untrained: what they compute costs the same."""

from __future__ import annotations

import torch

from wdsr_edge.config import ModelConfig
from wdsr_edge.models import EDSR, WDSR, build

MODELS = ("wdsr-b-3x32-x2", "wdsr-a-3x32-x2", "wdsr-b-3x32-x4", "edsr-1x32-x2")


def network(name: str) -> EDSR | WDSR:
    torch.manual_seed(0)
    return build(ModelConfig.from_name(name))
