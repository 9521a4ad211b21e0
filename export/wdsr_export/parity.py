"""Parity: each exported graph against the PyTorch reference, and what went wrong where it fails."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wdsr_edge._errors import InputError
from wdsr_edge.bundle import Bundle, Precision
from wdsr_edge.loading import find_bundle, load
from wdsr_edge.metrics import Difference, difference
from wdsr_edge.models import EDSR, WDSR, reference
from wdsr_edge.models.reference import to_image, to_tensor

Rgb = NDArray[np.uint8]
Upscale = Callable[[Rgb], Rgb]


@dataclass(frozen=True)
class Gate:
    """What a precision must reach against the PyTorch reference."""

    least_db: float
    """PSNR over all images, dB."""
    max_levels: int
    """Largest difference of any value, of 255."""
    share_off: float
    """Largest share of values that may differ: a biased rounding shows here first."""


GATES: Mapping[Precision, Gate] = {"fp32": Gate(60.0, 1, 0.001), "fp16": Gate(50.0, 255, 1.0)}


@dataclass(frozen=True)
class Parity:
    """One precision against the reference."""

    precision: Precision
    """Which graph."""
    images: Mapping[str, Difference]
    """Each image by name."""
    total: Difference
    """All images taken as one."""
    passed: bool
    """Whether the precision's gate is met."""
    diagnosis: str = ""
    """If not: the fault that explains it, or that none of those tried does."""
    tried: Mapping[str, float] | None = None
    """If not: each fault tried, and the PSNR in dB between the graph and the reference with that fault."""


def check_parity(model: EDSR | WDSR, graph: Upscale, frames: Mapping[str, Rgb], precision: Precision) -> Parity:
    """Run ``graph`` and the PyTorch reference on uint8 HWC RGB ``frames``, compare, and diagnose a failure."""
    upscale = reference(model)
    expected = {name: upscale(frame) for name, frame in frames.items()}
    found = {name: graph(frame) for name, frame in frames.items()}
    for name, image in found.items():
        if image.shape != expected[name].shape:
            raise InputError(
                f"the graph makes {image.shape} of {name}, {model.config.name} {expected[name].shape}: another model?"
            )
    images = {name: difference(found[name], expected[name]) for name in frames}
    total = _total(images, expected)
    gate = GATES[precision]
    passed = (
        total.psnr_db >= gate.least_db and total.max_levels <= gate.max_levels and total.share_off <= gate.share_off
    )
    if passed:
        return Parity(precision, images, total, passed)
    worst = min(frames, key=lambda name: images[name].psnr_db)
    tried = {name: _inner_psnr(found[worst], fault(frames[worst])) for name, fault in _faults(model).items()}
    best = max(tried, key=lambda name: tried[name])
    plain = images[worst].psnr_db
    if tried[best] >= max(45.0, plain + 6):
        diagnosis = f"{best}: the reference with that fault agrees to {tried[best]:.1f} dB (without: {plain:.1f} dB)"
    else:
        diagnosis = f"none of {len(tried)} known faults explains it; the closest, {best}, gives {tried[best]:.1f} dB"
    return Parity(precision, images, total, passed, diagnosis, tried)


def verify(model: EDSR | WDSR, source: str | os.PathLike[str], frames: Mapping[str, Rgb]) -> list[Parity]:
    """Parity of every uint8 graph of a bundle (a directory or a zoo name), or of one ONNX file.

    An ONNX file may be any graph with one input and one output, uint8 NHWC or float32 NCHW in [0, 1]: that is how a
    file made elsewhere is compared. Raises InputError, BundleError or BackendError.
    """
    if Path(source).is_file():
        return [check_parity(model, _foreign_graph(Path(source)), frames, "fp32")]
    bundle = Bundle.load(find_bundle(source))
    found = []
    for precision in bundle.precisions:
        with load(bundle.path, precision=precision) as sr:
            found.append(check_parity(model, sr, frames, precision))
    return found


def _foreign_graph(path: Path) -> Upscale:
    """An ONNX file of unknown origin as a function of a uint8 frame."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (lr,), (sr,) = session.get_inputs(), session.get_outputs()
    except Exception as error:  # its exception types are private
        raise InputError(
            f"{path}: no ONNX graph with one input and one output ({str(error).splitlines()[0]})"
        ) from error

    def upscale(frame: Rgb) -> Rgb:
        uint8 = lr.type == "tensor(uint8)"
        batch = frame[None] if uint8 else to_tensor(frame[None]).numpy()
        try:
            (result,) = session.run([sr.name], {lr.name: batch})
        except Exception as error:
            raise InputError(
                f"{path}: failed on a {batch.dtype} {batch.shape} frame: {str(error).splitlines()[0]}"
            ) from error
        image: Rgb = result[0] if sr.type == "tensor(uint8)" else to_image(torch.from_numpy(result))[0]
        return image

    return upscale


def _total(images: Mapping[str, Difference], expected: Mapping[str, Rgb]) -> Difference:
    sizes = np.array([expected[name].size for name in images], np.float64)
    errors = np.array([10 ** (-found.psnr_db / 10) for found in images.values()])
    shares = np.array([found.share_off for found in images.values()])
    error = float((errors * sizes).sum() / sizes.sum())
    decibels = -10 * math.log10(error) if error else math.inf
    worst = max(found.max_levels for found in images.values())
    return Difference(decibels, worst, float((shares * sizes).sum() / sizes.sum()))


def _inner_psnr(image: Rgb, other: Rgb) -> float:
    """PSNR away from the borders, where a shifted picture has nothing to compare."""
    margin = min(8, (min(image.shape[:2]) - 1) // 2)
    inner = slice(margin, -margin or None)
    return difference(image[inner, inner], other[inner, inner]).psnr_db


def _faults(model: EDSR | WDSR) -> dict[str, Upscale]:
    """The reference with each of the usual mistakes of an export built in."""
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
    faults: dict[str, Upscale] = {name: _as_upscale(change) for name, change in tensors}
    for name, order in (
        ("pixel shuffle in (row, column, channel) order, as TensorFlow has it", (2, 0, 1)),
        ("pixel shuffle with rows and columns swapped", (0, 2, 1)),
    ):
        faults[name] = _as_upscale(_with_shuffle(model, order))
    upscale = reference(model)
    for step, pixels in ((1, "one output pixel"), (config.scale, "one input pixel")):
        for direction, (down, right) in _DIRECTIONS.items():
            shift = (down * step, right * step)
            faults[f"shifted {direction} by {pixels}"] = lambda frame, shift=shift: np.roll(  # type: ignore[misc]
                upscale(frame), shift, (0, 1)
            )
    return faults


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


def _with_shuffle(model: EDSR | WDSR, order: Sequence[int]) -> nn.Module:
    changed = copy.deepcopy(model).eval()
    for name, module in list(changed.named_modules()):
        if isinstance(module, nn.PixelShuffle):
            changed.set_submodule(name, _WrongShuffle(module.upscale_factor, order))
    return changed
