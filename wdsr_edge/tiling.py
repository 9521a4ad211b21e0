"""Exact tiling: windows that overlap by the receptive field, so that the joined result is the whole frame's.

Zero padding acts at a frame's border and nowhere else, so a window is only exact where it has ``halo`` real pixels
around it or ends where the frame ends. All windows of a frame have one size: those at the far border shift inward
instead of being padded, which also serves engines of a fixed shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ._errors import InputError
from .config import ModelConfig

ACTIVATION_BYTES = 64 << 20
"""Largest float32 activation of one window under ``auto_tile``; ONNX Runtime holds three to five of them at a time."""


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
    if not fixed:
        window = -(-(length + 2 * halo * (count - 1)) // count)
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


def auto_tile(config: ModelConfig, activation_bytes: int = ACTIVATION_BYTES) -> int:
    """Core edge in LR pixels that keeps the widest activation of a window under ``activation_bytes``, at least 16.

    Larger tiles were faster on CPU up to the whole frame, since each repeats its halo; memory is what limits them.
    """
    for_each_pixel = 4 * max(conv.outputs * conv.pixels for conv in config.convs)
    return max(16, math.isqrt(activation_bytes // for_each_pixel) - 2 * config.halo)
