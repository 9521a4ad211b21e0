"""WDSR: wide activation before the ReLU (Yu et al. 2018, arXiv:1808.08718)."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import ModelConfig
from .layers import Denormalise, Normalise, Residual, conv


class BlockA(Residual):
    """WDSR-A (section 3.1): 3x3 to ``expansion * channels``, ReLU, 3x3 back."""

    def __init__(self, config: ModelConfig) -> None:
        c, wide = config.channels, config.channels * config.expansion
        super().__init__(
            config,
            conv(config, c, wide, 3, config.expansion_groups),
            nn.ReLU(),
            conv(config, wide, c, 3),
        )


class BlockB(Residual):
    """WDSR-B (section 3.2): 1x1 to ``expansion * channels``, ReLU, low-rank 1x1, 3x3 back."""

    def __init__(self, config: ModelConfig) -> None:
        c, wide, low = config.channels, config.channels * config.expansion, config.low_rank_channels
        super().__init__(
            config,
            conv(config, c, wide, 1, config.expansion_groups),
            nn.ReLU(),
            conv(config, wide, low, 1),
            conv(config, low, c, 3),
        )


class WDSR(nn.Module):
    """Head, residual body and tail beside a 5x5 skip; both are summed before one pixel shuffle (section 3.3).

    Float32 [N, 3, H, W] RGB in [0, 1] to [N, 3, H*scale, W*scale]; the output is not clipped.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        block = BlockA if config.arch == "wdsr-a" else BlockB
        outputs = 3 * config.scale**2
        self.normalise = Normalise(config)
        self.head = conv(config, 3, config.channels, 3)
        self.body = nn.Sequential(*(block(config) for _ in range(config.blocks)))
        self.tail = conv(config, config.channels, outputs, 3)
        self.skip = conv(config, 3, outputs, 5)
        self.shuffle = nn.PixelShuffle(config.scale)
        self.denormalise = Denormalise(config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalise(x)
        y: Tensor = self.shuffle(self.tail(self.body(self.head(x))) + self.skip(x))
        y = self.denormalise(y)
        return y
