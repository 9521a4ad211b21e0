"""MATLAB's bicubic ``imresize``, bit for bit: the standard degradation of super-resolution benchmarks. Numpy only."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import InputError

Image = NDArray[Any]

_RATIOS = (*(Fraction(1, n) for n in (4, 3, 2)), *(Fraction(n) for n in (1, 2, 3, 4)))


def resize_bicubic(image: Image, scale: float | Fraction) -> Image:
    """``imresize(image, scale, 'bicubic')`` of MATLAB R2017 and later.

    ``image`` is uint8, uint16 or floating HxW or HxWxC; ``scale`` is 1/2, 1/3, 1/4 or an integer from 1 to 4. The
    result has ``ceil(side * scale)`` pixels a side and the same dtype. Cubic kernel with a = -0.5, stretched by
    1/scale when shrinking (antialiasing), symmetric padding; rows first, rounded to the dtype, then columns.
    Source: https://www.mathworks.com/help/images/ref/imresize.html. Raises InputError for anything else.
    """
    ratio = next((known for known in _RATIOS if isinstance(scale, (int, float, Fraction)) and _is(scale, known)), None)
    if ratio is None:
        raise InputError(f"scale must be 1/2, 1/3, 1/4 or an integer from 1 to 4, got {scale!r}")
    if not isinstance(image, np.ndarray):
        raise InputError(f"expected a uint8, uint16 or float array, got {type(image).__name__}: use numpy.asarray")
    if image.ndim not in (2, 3) or 0 in image.shape or not _is_image(image.dtype):
        raise InputError(f"expected a uint8, uint16 or float HxW or HxWxC image, got {image.dtype} {image.shape}")
    return np.ascontiguousarray(_resize_axis(_resize_axis(image, ratio, 0), ratio, 1))


def _is(scale: float | Fraction, known: Fraction) -> bool:
    return abs(float(scale) - float(known)) < 1e-6


def _is_image(dtype: np.dtype[Any]) -> bool:
    return dtype in (np.uint8, np.uint16) or np.issubdtype(dtype, np.floating)


def _resize_axis(image: Image, ratio: Fraction, axis: int) -> Image:
    weights, indices = contributions(image.shape[axis], ratio)
    lines = np.moveaxis(image, axis, 0)
    shape = (-1,) + (1,) * (lines.ndim - 1)
    total = np.zeros((len(weights), *lines.shape[1:]))
    for tap in range(weights.shape[1]):
        total += weights[:, tap].reshape(shape) * lines[indices[:, tap]]
    if image.dtype in (np.uint8, np.uint16):
        total = np.clip(np.floor(total + 0.5), 0, np.iinfo(image.dtype).max)
    return np.moveaxis(total.astype(image.dtype), 0, axis)


def contributions(length: int, ratio: Fraction) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Weights [outputs, taps], each row summing to 1, and the input lines [outputs, taps] that they belong to."""
    scale = float(ratio)
    outputs = -(-length * ratio.numerator // ratio.denominator)
    stretch = min(scale, 1.0)
    width = 4 / stretch
    # MATLAB counts pixels from 1; output pixel x lies over input position x / scale + (1 - 1 / scale) / 2.
    centre = np.arange(1, outputs + 1) / scale + 0.5 * (1 - 1 / scale)
    first = np.floor(centre - width / 2)
    positions = first[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = stretch * cubic(stretch * (centre[:, None] - positions))
    weights /= weights.sum(axis=1, keepdims=True)
    mirror = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    indices = mirror[(positions.astype(np.intp) - 1) % (2 * length)]
    used = weights.any(axis=0)
    return weights[:, used], indices[:, used]


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel (1981), a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
