"""Frames: checks, luma, alpha, and the colour that shows where a frame is transparent."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._errors import InputError

Frame = NDArray[Any]
Color = Literal["rgb", "bgr"]

ALPHA_REACH = 2
"""Farthest LR pixel, along each axis, that ``enlarge_alpha`` takes into an output pixel."""

SLACK = 1e-3
"""Tolerance of float32 values outside [0, 1]."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def checked(frame: Frame, color: Color) -> Frame:
    """``frame`` as a plain array in the machine's byte order, if ``SuperResolver.__call__`` takes it.

    float32 values up to ``SLACK`` outside of [0, 1], as resampling and codecs leave them, are clipped.
    """
    if color not in ("rgb", "bgr"):
        raise InputError(f"color must be 'rgb' or 'bgr', got {color!r}")
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame is a numpy array, got {type(frame).__name__}: convert it with numpy.asarray")
    dtype = frame.dtype.newbyteorder("=")
    if dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"a frame is uint8, uint16 or float32 in [0, 1], got {frame.dtype}: convert it first")
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] not in (1, 3, 4)):
        raise InputError(f"a frame is [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {list(frame.shape)}")
    if 0 in frame.shape:
        raise InputError(f"a frame has at least one pixel, got {list(frame.shape)}")
    plain = np.asarray(frame, dtype)
    if dtype != np.float32:
        return plain
    least, most = plain.min(), plain.max()
    if not (least >= np.float32(-SLACK) and most <= np.float32(1 + SLACK)):
        raise InputError(
            f"a float32 frame is in [0, 1], give or take {SLACK}, without NaN; this is {least:g} to {most:g}: "
            "scale it, or pass uint8"
        )
    return plain if least >= 0 and most <= 1 else plain.clip(0, 1)


def luma(big: Frame, dtype: np.dtype[Any]) -> Frame:
    """BT.601 luma, in levels unless ``dtype`` is float."""
    result: Frame = big.dot(_LUMA)
    return result if dtype == np.float32 else np.rint(result)


def is_grey(colours: Frame) -> bool:
    """True if R = G = B in every pixel of [H, W, 3]. Colour usually shows in the first rows, and ends the search."""
    rows = max(1, 65536 // colours.shape[1])
    for top in range(0, len(colours), rows):
        red, green, blue = np.moveaxis(colours[top : top + rows], 2, 0)
        if not (np.array_equal(red, green) and np.array_equal(green, blue)):
            return False
    return True


def bled(frame: Frame, reach: int) -> Frame:
    """The colours [H, W, 3] of a frame [H, W, 4] with alpha last, none of them hidden under an alpha of 0.

    There, whatever the file or program left, visible colour is spread outwards: a pixel gets the mean of its
    neighbours of the eight that are nearer to a visible pixel, up to ``reach`` pixels away from one, and beyond that
    0. So the hidden colour has no influence on what a network makes of the result. ``frame`` is not written to; one
    without hidden pixels is not copied.
    """
    colours, visible = frame[..., :3], frame[..., 3] > 0
    if visible.all():
        return colours
    height, width = visible.shape
    # One pixel of border, never known, so that a neighbour is a fixed number of places away.
    canvas = np.zeros((height + 2, width + 2, 3), frame.dtype)
    np.copyto(canvas[1:-1, 1:-1], colours, where=visible[..., None])
    known, inside = (np.zeros((height + 2, width + 2), bool) for _ in range(2))
    known[1:-1, 1:-1], inside[1:-1, 1:-1] = visible, True
    flat, flat_known, flat_inside = canvas.reshape(-1, 3), known.reshape(-1), inside.reshape(-1)
    steps = [down * (width + 2) + across for down in (-1, 0, 1) for across in (-1, 0, 1) if down or across]
    layer = _next_to(visible)
    for _ in range(reach):
        if not layer.size:
            break
        flat[layer] = _mean_of_known(flat, flat_known, layer, steps)
        flat_known[layer] = True
        if len(layer) > flat_known.size // 256:
            near = np.zeros_like(flat_known)
            for step in steps:
                near[layer + step] = True
            layer = np.flatnonzero(near & flat_inside & ~flat_known)
        else:
            near = np.concatenate([layer + step for step in steps])
            layer = np.unique(near[flat_inside[near] & ~flat_known[near]])
    return canvas[1:-1, 1:-1]


def _next_to(visible: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Places, in a canvas with a border of one pixel, of hidden pixels that touch a visible one."""
    near = np.zeros((visible.shape[0] + 2, visible.shape[1] + 2), bool)
    near[1:-1, 1:-1] = visible
    near[1:-1] |= near[:-2] | near[2:]
    near[:, 1:-1] |= near[:, :-2] | near[:, 2:]
    near[1:-1, 1:-1] &= ~visible
    near[[0, -1]] = False
    near[:, [0, -1]] = False
    return np.flatnonzero(near)


def _mean_of_known(flat: Frame, known: NDArray[np.bool_], layer: NDArray[np.intp], steps: list[int]) -> Frame:
    """The mean colour of the known neighbours of each place of ``layer``; unknown ones are 0 in ``flat``."""
    floating = flat.dtype == np.float32
    total: Frame = np.zeros((len(layer), 3), np.float32 if floating else np.int32)
    count: Frame = np.zeros((len(layer), 1), total.dtype)
    for step in steps:
        total += flat[layer + step]
        count += known[layer + step, None]
    return total / count if floating else (2 * total + count) // (2 * count)


def enlarge_alpha(alpha: Frame, scale: int) -> Frame:
    """Bicubic: constant areas stay exactly what they are."""
    from PIL import Image

    height, width = alpha.shape
    size = (width * scale, height * scale)
    if alpha.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(alpha)).resize(size, Image.Resampling.BICUBIC))
    big = np.asarray(Image.fromarray(alpha.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    return np.rint(big.clip(0, 65535)).astype(np.uint16) if alpha.dtype == np.uint16 else big.clip(0, 1)
