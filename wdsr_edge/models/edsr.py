"""The EDSR baseline that WDSR is compared with (Lim et al. 2017, arXiv:1707.02921)."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import ModelConfig, upsampler_factors
from .layers import Denormalise, Normalise, Residual, conv


class EDSRBlock(Residual):
    """Two 3x3 convolutions around a ReLU, no norm by default (section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        c = config.channels
        super().__init__(config, conv(config, c, c, 3, config.expansion_groups), nn.ReLU(), conv(config, c, c, 3))


class EDSR(nn.Module):
    """Head, residual body with a global skip, pixel-shuffle upsampler, and a 3x3 to RGB at full size.

    Float32 [N, 3, H, W] RGB in [0, 1] to [N, 3, H*scale, W*scale]; the output is not clipped.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.normalise = Normalise(config)
        self.head = conv(config, 3, c, 3)
        self.body = nn.Sequential(*(EDSRBlock(config) for _ in range(config.blocks)))
        self.body_end = conv(config, c, c, 3)
        self.upsampler = nn.Sequential()
        for factor in upsampler_factors(config.scale):
            self.upsampler.extend([conv(config, c, c * factor**2, 3), nn.PixelShuffle(factor)])
        self.tail = conv(config, c, 3, 3)
        self.denormalise = Denormalise(config)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(self.normalise(x))
        y: Tensor = self.tail(self.upsampler(self.body_end(self.body(head)) + head))
        y = self.denormalise(y)
        return y
