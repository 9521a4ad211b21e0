"""From a config to a network."""

from __future__ import annotations

from ..config import ModelConfig
from .edsr import EDSR
from .wdsr import WDSR


def build(config: ModelConfig) -> EDSR | WDSR:
    """A freshly initialised network with ``.config``; float32 NCHW RGB in [0, 1] in and out, not clipped."""
    return EDSR(config) if config.arch == "edsr" else WDSR(config)
