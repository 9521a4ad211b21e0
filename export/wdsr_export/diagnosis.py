"""Diagnosis of a graph that fails parity: the usual export mistakes, each tried on the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wdsr_edge.evaluation import Upscale
from wdsr_edge.images.files import Rgb
from wdsr_edge.metrics import difference
from wdsr_edge.models import EDSR, WDSR, reference
from wdsr_edge.models.reference import to_image, to_tensor

CERTAIN_DB = 45.0
"""A fault is named if the reference with it agrees with the graph to this, and much better than without it."""


QUANTISED_DB = 35.0
"""The same where the graph is INT8, whose own error is in the way."""


def diagnose(model: EDSR | WDSR, frame: Rgb, found: Rgb, *, quantised: bool = False) -> tuple[str, dict[str, float]]:
    """The fault that explains ``found``, what a graph made of ``frame``, in words; and what each fault tried gives.

    That is the PSNR in dB between ``found`` and the PyTorch reference with the fault, away from the borders. Of a
    ``quantised`` graph that no fault explains, the words say that its precision may be all there is to it.
    """
    plain = _inner_psnr(found, reference(model)(frame))
    tried: dict[str, float] = {}
    for name, fault in faults(model):
        tried[name] = max(tried.get(name, 0.0), _inner_psnr(found, fault(frame)))
    best = max(tried, key=lambda name: tried[name])
    if tried[best] >= max(QUANTISED_DB if quantised else CERTAIN_DB, plain + 6):
        return f"{best}: the reference with that fault agrees to {tried[best]:.1f} dB (without: {plain:.1f} dB)", tried
    if quantised:
        return (
            f"INT8 alone may come to this ({plain:.1f} dB), as no known fault explains it better; what counts is what "
            "it loses to ground truth: wdsr-edge evaluate",
            tried,
        )
    return f"none of {len(tried)} known faults explains it; the closest, {best}, gives {tried[best]:.1f} dB", tried


def _inner_psnr(image: Rgb, other: Rgb) -> float:
    """PSNR away from the borders, where a shifted picture has nothing to compare."""
    margin = min(8, (min(image.shape[:2]) - 1) // 2)
    inner = slice(margin, -margin or None)
    return difference(image[inner, inner], other[inner, inner]).psnr_db


def faults(model: EDSR | WDSR) -> list[tuple[str, Upscale]]:
    """The reference with each of the usual mistakes of an export built in; one mistake may have several forms."""
    config = model.config
    mean = torch.tensor(config.mean).view(1, 3, 1, 1)
    tensors: Sequence[tuple[str, Callable[[Tensor], Tensor]]] = (
        ("red and blue swapped on input", lambda x: model(x.flip(1))),
        ("red and blue swapped on output", lambda x: model(x).flip(1)),
        ("red and blue swapped on input and output", lambda x: model(x.flip(1)).flip(1)),
        ("input in 0-255 where the network takes 0-1", lambda x: model(x * 255)),
        ("input divided by 255 twice", lambda x: model(x / 255)),
        ("output left in 0-1, not scaled to 0-255", lambda x: model(x) / 255),
        ("mean subtracted twice on input", lambda x: model(x - mean)),
        ("mean never subtracted on input", lambda x: model(x + mean)),
        ("mean added twice on output", lambda x: model(x) + mean),
        ("mean never added on output", lambda x: model(x) - mean),
        ("mean applied twice, on input and output", lambda x: model(x - mean) + mean),
        ("mean never applied, on input nor output", lambda x: model(x + mean) - mean),
        ("output cut off instead of rounded", lambda x: model(x) - 0.5 / 255),
    )
    found = [(name, _as_upscale(change)) for name, change in tensors]
    for name, order in (
        ("pixel shuffle in (row, column, channel) order, as TensorFlow has it", (2, 0, 1)),
        ("pixel shuffle with rows and columns swapped", (0, 2, 1)),
    ):
        found.append((name, _as_upscale(_with_shuffle(model, order))))
        found.append((name, _as_upscale(_shuffled_at_the_end(model, order))))
    upscale = reference(model)
    for step, pixels in ((1, "one output pixel"), (config.scale, "one input pixel")):
        for direction, (down, right) in _DIRECTIONS.items():
            shift = (down * step, right * step)
            found.append((f"shifted {direction} by {pixels}", _shifted(upscale, shift)))
    return found


def _shifted(upscale: Upscale, shift: tuple[int, int]) -> Upscale:
    return lambda frame: np.roll(upscale(frame), shift, (0, 1))


_DIRECTIONS = {
    "down": (1, 0),
    "up": (-1, 0),
    "right": (0, 1),
    "left": (0, -1),
    "down and right": (1, 1),
    "up and left": (-1, -1),
    "down and left": (1, -1),
    "up and right": (-1, 1),
}


def _as_upscale(change: Callable[[Tensor], Tensor]) -> Upscale:
    @torch.inference_mode()
    def upscale(frame: Rgb) -> Rgb:
        image: Rgb = to_image(change(to_tensor(frame[None])))[0]
        return image

    return upscale


class _WrongShuffle(nn.Module):
    """Pixel shuffle that reads its channels, (colour, row, column) by training, in another order."""

    def __init__(self, scale: int, order: Sequence[int]) -> None:
        super().__init__()
        self.scale, self.order = scale, tuple(order)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, h, w = x.shape
        sizes = (channels // self.scale**2, self.scale, self.scale)
        # A file in (row, column, channel) order, read as such: axes as they lie, then as the shuffle wants them.
        lying = [sizes[axis] for axis in np.argsort(self.order)]
        axes = [1 + axis for axis in self.order]
        x = x.view(n, *lying, h, w).permute(0, *axes, 4, 5).reshape(n, channels, h, w)
        return functional.pixel_shuffle(x, self.scale)


def _shuffled_at_the_end(model: EDSR | WDSR, order: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """As a deploy graph would have it, whose last convolutions hold the mean as well."""
    s = model.config.scale
    shuffle = _WrongShuffle(s, order)

    def change(x: Tensor) -> Tensor:
        y: Tensor = shuffle(functional.pixel_unshuffle(model(x), s))
        return y

    return change


def _with_shuffle(model: EDSR | WDSR, order: Sequence[int]) -> nn.Module:
    changed = copy.deepcopy(model).eval()
    for name, module in list(changed.named_modules()):
        if isinstance(module, nn.PixelShuffle):
            changed.set_submodule(name, _WrongShuffle(module.upscale_factor, order))
    return changed
