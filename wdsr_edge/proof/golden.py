"""The golden frame through a compiled engine: what it makes on this very GPU, against the PyTorch reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import BackendError
from ..backends.options import SelfTest
from ..bundle import Bundle, Graph
from ..metrics import Difference, difference
from ..tiling import Span, spans
from .gates import golden_gate

_Batch = NDArray[Any]


def golden_test(bundle: Bundle, graph: Graph, advice: str = "name another one") -> SelfTest:
    """Self-test of an engine that runs ``graph``, uint8 or float32.

    An engine of another shape than the golden frame's gets it in windows, or continued by its mirror image, so that all
    of it is compared. Only one with nothing between two halos tells nothing: None. An engine that fails is refused,
    and ``advice`` ends the message.
    """

    def test(run: Callable[[_Batch], _Batch], shape: tuple[int, ...]) -> float | None:
        apart = golden_difference(bundle, run, shape)
        if apart is None:
            return None
        gate = golden_gate(graph, bundle.manifest)
        if not gate.admits(apart):
            raise BackendError(
                f"the {graph} engine is refused: on the golden frame it comes to {apart.psnr_db:.1f} dB "
                f"({gate.least_db:.1f} needed) and {apart.max_levels} levels, in this precision on this GPU: {advice}"
            )
        return apart.psnr_db

    return test


def golden_difference(bundle: Bundle, run: Callable[[_Batch], _Batch], shape: tuple[int, ...]) -> Difference | None:
    """Difference of ``run``, an engine for batches of ``shape``, to the golden frame; None if too small to tell.

    A frame of another size goes through in windows, or continued by its mirror image, so that all of it is compared.
    """
    lr, reference = bundle.golden()
    planar = shape[-1] != 3
    size = shape[2:] if planar else shape[1:3]
    halo, s = bundle.config.halo, bundle.config.scale
    pairs = [*zip(size, lr.shape[:2], strict=True)]
    if any(side != whole and min(side, whole) <= 2 * halo for side, whole in pairs):
        return None
    found = np.empty((shape[0], *reference.shape), np.uint8)
    for row, column in itertools.product(*(_windows(side, whole, halo) for side, whole in pairs)):
        real = lr[max(0, row.start) : row.stop, max(0, column.start) : column.stop]
        before = max(0, -row.start), max(0, -column.start)
        after = size[0] - before[0] - real.shape[0], size[1] - before[1] - real.shape[1]
        window = np.pad(real, (*zip(before, after, strict=True), (0, 0)), "symmetric")
        batch = np.ascontiguousarray(np.broadcast_to(window, (shape[0], *window.shape)))
        big = _run_planar(run, batch) if planar else run(batch)
        found[:, row.first * s : row.last * s, column.first * s : column.last * s] = big[
            :,
            (row.first - row.start) * s : (row.last - row.start) * s,
            (column.first - column.start) * s : (column.last - column.start) * s,
        ]
    # Frames of a batch are stacked into one picture.
    expected = np.broadcast_to(reference, found.shape).reshape(-1, *reference.shape[1:])
    return difference(found.reshape(expected.shape), np.ascontiguousarray(expected))


def _windows(side: int, whole: int, halo: int) -> list[Span]:
    """Windows of ``side`` that keep each of ``whole`` pixels once; a larger one starts or ends where they do."""
    if side == whole:
        return [Span(0, whole, 0, whole)]
    if side < whole:
        return spans(whole, side - 2 * halo, halo, fixed=True)
    return [Span(0, side, 0, whole - halo), Span(whole - side, whole, whole - halo, whole)]


def _run_planar(run: Callable[[_Batch], _Batch], batch: _Batch) -> _Batch:
    """uint8 NHWC through a float32 NCHW graph."""
    big = run(np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / np.float32(255))
    levels: _Batch = np.rint(big.transpose(0, 2, 3, 1).clip(0, 1) * 255).astype(np.uint8)
    return levels
