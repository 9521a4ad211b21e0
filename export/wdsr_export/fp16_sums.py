"""FP16 quality when convolution sums are kept in FP16 as well, as GPU kernels may do; simulated."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from wdsr_edge.images.files import Rgb
from wdsr_edge.metrics import difference
from wdsr_edge.models import EDSR, WDSR, fold, reference

NAME = "sums-in-fp16"
"""Where a manifest has it, among the engines that were measured."""
TERMS = 16
"""Products that are added before a sum is rounded: one step of a tensor core's (NVIDIA, PTX ISA: mma.m16n8k16)."""


def fp16_sums(model: EDSR | WDSR, lr: Rgb) -> Rgb:
    """``lr`` (uint8 HWC RGB) enlarged in FP16, each partial sum of ``TERMS`` products rounded to FP16."""
    folded = fold(model)
    for module in folded.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = _Rounded(module)  # type: ignore[assignment]
    return reference(folded)(lr)


def fp16_sums_entry(model: EDSR | WDSR, lr: Rgb) -> dict[str, Any]:
    """Manifest entry next to the engines' parity: dB on the golden frame ``lr``, null if it is equal."""
    decibels = difference(fp16_sums(model, lr), reference(model)(lr)).psnr_db
    golden_db = round(decibels, 2) if math.isfinite(decibels) else None
    return {"against": "PyTorch reference", "simulated": True, "golden_db": golden_db}


class _Rounded:
    """A convolution's ``forward``, tap by tap."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv

    def __call__(self, lr: Tensor) -> Tensor:
        conv, (height, width) = self.conv, lr.shape[2:]
        (down, right), kernel = conv.kernel_size, _half(conv.weight)
        padded = F.pad(_half(lr), (right // 2, right // 2, down // 2, down // 2))
        step = TERMS if conv.groups == 1 else conv.in_channels
        sums = lr.new_zeros(len(lr), conv.out_channels, height, width)
        for row in range(down):
            for column in range(right):
                for first in range(0, conv.in_channels, step):
                    part = padded[:, first : first + step, row : row + height, column : column + width]
                    tap = kernel[:, first : first + step, row : row + 1, column : column + 1]
                    sums = _half(sums + F.conv2d(part, tap, groups=conv.groups))
        return sums if conv.bias is None else _half(sums + _half(conv.bias)[None, :, None, None])


def _half(values: Tensor) -> Tensor:
    return values.half().float()
