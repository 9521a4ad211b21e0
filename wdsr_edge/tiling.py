"""Exact tiling: windows that overlap by the receptive field, so that the joined result is the whole frame's.

Zero padding acts at a frame's border and nowhere else, so a window is only exact where it has ``halo`` real pixels
around it or ends where the frame ends. All windows of a frame have one size: those at the far border shift inward
instead of being padded, which also serves engines of a fixed shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ._errors import InputError
from .config import ModelConfig

ACTIVATION_BYTES = 80 << 20
"""Largest float32 activation of one window under ``auto_windows``; ONNX Runtime holds two to four of them at a time."""


class Span(NamedTuple):
    """One window along one axis, in LR pixels of the frame."""

    start: int
    """First pixel that the network sees."""
    stop: int
    """End of what it sees."""
    first: int
    """First pixel whose result is kept."""
    last: int
    """End of what is kept."""


def spans(length: int, tile: int, halo: int, *, fixed: bool = False) -> list[Span]:
    """Windows of at most ``tile + 2 * halo`` pixels that keep each pixel of ``length`` exactly once.

    ``fixed`` keeps windows at that size (or at ``length``, if that is less); otherwise they shrink to share the work
    evenly. Raises InputError if ``length`` or ``tile`` is below 1.
    """
    if length < 1 or tile < 1:
        raise InputError(f"tile and frame must be at least 1 pixel, got tile {tile} for a side of {length}")
    window = tile + 2 * halo
    if length <= window:
        return [Span(0, length, 0, length)]
    count = -(-(length - 2 * halo) // tile)
    return _spans(length, count, window if fixed else _shared(length, count, halo), halo)


def _shared(length: int, count: int, halo: int) -> int:
    """Size of ``count`` windows that share a side evenly."""
    return -(-(length + 2 * halo * (count - 1)) // count)


def _spans(length: int, count: int, window: int, halo: int) -> list[Span]:
    found, first = [], 0
    for index in range(count):
        start = min(index * (window - 2 * halo), length - window)
        last = length if index == count - 1 else start + window - halo
        found.append(Span(start, start + window, first, last))
        first = last
    return found


def tiles(height: int, width: int, tile: int, halo: int, *, fixed: bool = False) -> Iterator[tuple[Span, Span]]:
    """Row and column spans of every window of a frame, row by row."""
    columns = spans(width, tile, halo, fixed=fixed)
    for row in spans(height, tile, halo, fixed=fixed):
        for column in columns:
            yield row, column


@lru_cache(maxsize=64)
def auto_windows(height: int, width: int, halo: int, pixels: int) -> tuple[tuple[Span, Span], ...]:
    """Row and column spans of the windows that compute the fewest pixels in all, with at most ``pixels`` in each.

    Windows repeat their halos, and that is what tiles cost: a pixel costs the same in windows of any size and shape
    from 32x480 up, within the noise (benchmarks/tiling.py). A frame that is larger than ``pixels`` by a quarter
    at most is one window, which computes least of all. ``pixels`` is at least ``(1 + 2 * halo) ** 2``.
    """
    if height < 1 or width < 1:
        raise InputError(f"a frame must be at least 1 pixel a side, got {width}x{height}")
    rows, columns = (1, 1) if 4 * height * width <= 5 * pixels else _grid(height, width, halo, pixels)
    down, across = (
        _spans(length, count, _shared(length, count, halo), halo)
        for length, count in ((height, rows), (width, columns))
    )
    return tuple(itertools.product(down, across))


def _grid(height: int, width: int, halo: int, pixels: int) -> tuple[int, int]:
    """Number of windows down and across that compute the fewest pixels in all."""
    best = (math.inf, 0, 0)
    for rows in range(1, max(2, height - 2 * halo + 1)):
        tall = _shared(height, rows, halo)
        widest = pixels // tall
        if widest < min(width, 1 + 2 * halo):
            continue
        columns = 1 if width <= widest else -(-(width - 2 * halo) // (widest - 2 * halo))
        wide = _shared(width, columns, halo)
        best = min(best, (rows * tall * columns * wide, rows, columns))
        if columns == 1:
            break
    return best[1:]


def auto_pixels(config: ModelConfig, activation_bytes: int = ACTIVATION_BYTES) -> int:
    """LR pixels of a window whose widest activation is ``activation_bytes``, a quarter more where the halo is wide.

    At least those of a core of 16x16.
    """
    for_each_pixel = 4 * max(conv.outputs * conv.pixels for conv in config.convs)
    wide = min(1.25, max(1.0, config.halo / 6))
    return max((16 + 2 * config.halo) ** 2, int(activation_bytes * wide) // for_each_pixel)


def auto_tile(config: ModelConfig, activation_bytes: int = ACTIVATION_BYTES) -> int:
    """Core edge in LR pixels of a square window of ``auto_pixels``: for engines that are compiled for each size."""
    return math.isqrt(auto_pixels(config, activation_bytes)) - 2 * config.halo
