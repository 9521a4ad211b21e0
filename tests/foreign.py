"""Networks and files of other projects, as the importers meet them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wdsr_edge import CheckpointError
from wdsr_edge.models import import_weights

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
Norm = Callable[[nn.Module], nn.Module]


def old_norm(conv: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(conv)


NORMS: dict[str, Norm] = {"g and v": old_norm, "original0": parametrizations.weight_norm, "plain": lambda conv: conv}


def conv(inputs: int, outputs: int, size: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


class Branch(nn.Module):
    """``x + factor * body(x)``."""

    def __init__(self, body: nn.Sequential, factor: float) -> None:
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) * self.factor + x
        return y


class Ntire(nn.Module):
    """As JiahuiYu/wdsr_ntire2018: RGB in 0..255, four containers, two shuffles, residual scaling in the code."""

    def __init__(
        self,
        norm: Norm,
        *,
        wide: int,
        low: int = 0,
        c: int = 8,
        blocks: int = 2,
        scale: int = 2,
        groups: int = 1,
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.head = nn.Sequential(norm(conv(3, c, 3)))

        def body() -> nn.Sequential:
            if low:
                return nn.Sequential(
                    norm(conv(c, wide, 1, groups=groups)), nn.ReLU(), norm(conv(wide, low, 1)), norm(conv(low, c, 3))
                )
            return nn.Sequential(norm(conv(c, wide, 3, groups=groups)), nn.ReLU(), norm(conv(wide, c, 3)))

        self.body = nn.Sequential(*(Branch(body(), factor) for _ in range(blocks)))
        self.tail = nn.Sequential(norm(conv(c, 3 * scale**2, 3)), nn.PixelShuffle(scale))
        self.skip = nn.Sequential(norm(conv(3, 3 * scale**2, 5)), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 255 - MEAN * 255) / 127.5
        x = self.tail(self.body(self.head(x))) + self.skip(x)
        return (x * 127.5 + MEAN * 255) / 255


class Ychfan(nn.Module):
    """As ychfan/wdsr: RGB in [0, 1] less 0.5, one container, one shuffle."""

    def __init__(self, norm: Norm, *, wide: int, c: int = 8, blocks: int = 2, scale: int = 2) -> None:
        super().__init__()
        layers = [norm(conv(3, c, 3))]
        for _ in range(blocks):
            layers.append(Branch(nn.Sequential(norm(conv(c, wide, 3)), nn.ReLU(), norm(conv(wide, c, 3))), 1.0))
        self.body = nn.Sequential(*layers, norm(conv(c, 3 * scale**2, 3)))
        self.skip = nn.Sequential(norm(conv(3, 3 * scale**2, 5)))
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x: Tensor) -> Tensor:
        x = x - 0.5
        y: Tensor = self.shuffle(self.body(x) + self.skip(x)) + 0.5
        return y


class Edsr(nn.Module):
    """As EDSR-PyTorch: RGB in 0..255, mean shifts as 1x1 convolutions."""

    def __init__(self, c: int = 8, scale: int = 4) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = conv(3, 3, 1), conv(3, 3, 1)
        for shift, sign in ((self.sub_mean, -1), (self.add_mean, 1)):
            shift.weight.data.copy_(torch.eye(3).view(3, 3, 1, 1))
            assert shift.bias is not None
            shift.bias.data.copy_(sign * 255 * MEAN.flatten())
        self.head = nn.Sequential(conv(3, c, 3))
        blocks = (Branch(nn.Sequential(conv(c, c, 3), nn.ReLU(), conv(c, c, 3)), 1.0) for _ in range(2))
        self.body = nn.Sequential(*blocks, conv(c, c, 3))
        stages = [(conv(c, c * f * f, 3), nn.PixelShuffle(f)) for f in ((2, 2) if scale == 4 else (scale,))]
        self.tail = nn.Sequential(nn.Sequential(*(layer for stage in stages for layer in stage)), conv(c, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x * 255))
        y: Tensor = self.add_mean(self.tail(self.body(x) + x)) / 255
        return y


def trained(model: nn.Module) -> nn.Module:
    """Every g far from the norm of its v."""
    generator = torch.Generator().manual_seed(99)  # not a seed of the weights: the same draws would not be independent
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_mean" not in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.4, 1.6, generator=generator))
    return model.eval()


def ntire(norm: str = "g and v", arch: str = "wdsr-b", **size: Any) -> nn.Module:
    torch.manual_seed(0)
    size = {"wide": 24, **({"low": 6} if arch == "wdsr-b" else {}), **size}
    return trained(Ntire(NORMS[norm], **size))


def ychfan(norm: str = "g and v", **size: Any) -> nn.Module:
    torch.manual_seed(1)
    return trained(Ychfan(NORMS[norm], **{"wide": 32, **size}))


def refused(path: Path, text: str) -> str:
    """One line that begins with the path and says ``text``."""
    with pytest.raises(CheckpointError, match=text) as caught:
        import_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    return message
