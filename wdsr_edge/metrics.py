"""PSNR and SSIM as super-resolution papers report them. Numpy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._errors import InputError

_Float = NDArray[np.float64]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], *, shave: int = 0, luma: bool = False) -> float:
    """Peak signal-to-noise ratio of two uint8 HxWx3 RGB images, in dB; infinite for equal images.

    ``shave`` pixels are left out at every border (papers use the scale). ``luma`` compares Y of BT.601 in studio
    range (see ``luma_bt601``), which is what published figures mean by PSNR on Y.
    """
    x, y = _prepared(a, b, shave, luma)
    error = float(np.mean((x - y) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else float("inf")


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8], *, shave: int = 0, luma: bool = False) -> float:
    """Structural similarity of two uint8 HxWx3 RGB images, mean over channels, at most 1.

    Wang et al. 2004: 11x11 Gaussian window, sigma 1.5, K1 = 0.01, K2 = 0.03, only windows inside the image.
    Arguments as in ``psnr``; at least 11 pixels a side must be left after shaving.
    """
    x, y = _prepared(a, b, shave, luma)
    if min(x.shape[:2]) < 11:
        raise InputError(f"ssim needs at least 11 pixels a side after shaving, got {x.shape[0]}x{x.shape[1]}")
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def luma_bt601(image: NDArray[np.uint8]) -> _Float:
    """Y [H, W], 16 to 235, of a uint8 HxWx3 RGB image: MATLAB's rgb2ycbcr, not rounded."""
    y: _Float = 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
    return y


def _prepared(a: NDArray[np.uint8], b: NDArray[np.uint8], shave: int, luma: bool) -> tuple[_Float, _Float]:
    for image in (a, b):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"expected uint8 HxWx3, got {image.dtype} {image.shape}")
    if a.shape != b.shape:
        raise InputError(f"the images differ in shape: {a.shape} and {b.shape}")
    if shave < 0 or min(a.shape[:2]) <= 2 * shave:
        raise InputError(f"shave {shave} leaves nothing of {a.shape[0]}x{a.shape[1]}")
    inner = slice(shave, -shave or None)
    a, b = a[inner, inner], b[inner, inner]
    if luma:
        return luma_bt601(a)[..., None], luma_bt601(b)[..., None]
    return a.astype(np.float64), b.astype(np.float64)


def _blur(image: _Float) -> _Float:
    """Separable 11-tap Gaussian, only where it fits."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    for axis in (0, 1):
        views = np.lib.stride_tricks.sliding_window_view(image, 11, axis=axis)
        image = views @ window
    return image


class Difference(NamedTuple):
    """Difference between an image and a reference of the same shape."""

    psnr_db: float
    """PSNR on RGB, infinite for equal images."""
    max_levels: int
    """Largest difference of any value, of 255."""
    share_off: float
    """Share of values that differ at all, 0 to 1."""


def difference(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Difference:
    """Parity of two uint8 HxWx3 images, over every pixel."""
    decibels = psnr(image, reference)
    apart = np.abs(image.astype(np.int16) - reference)
    return Difference(decibels, int(apart.max()), float(np.count_nonzero(apart) / apart.size))
