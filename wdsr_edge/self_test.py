"""The golden frame through a compiled engine: what it makes on this very GPU, against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._errors import BackendError
from .backends.device import SelfTest
from .bundle import Bundle, Graph
from .gates import golden_gate
from .metrics import difference

LEAST_SIDE = 16
"""Of the golden frame, what must be left for a test, in LR pixels."""

_Batch = NDArray[Any]


def golden_test(
    bundle: Bundle, graph: Graph, passing: Callable[[tuple[int, ...]], Sequence[str]] = lambda shape: ()
) -> SelfTest:
    """What proves an engine with ``graph``, uint8 or float32, in it.

    An engine of another shape than the golden frame's gets it cut off, or continued by its mirror image; only what is
    farther than the halo from where that happened is compared. An engine that fails is refused, and ``passing`` asked
    for the precisions that pass on batches of that shape.
    """

    def test(run: Callable[[_Batch], _Batch], shape: tuple[int, ...]) -> float | None:
        lr, reference = bundle.golden()
        planar = shape[-1] != 3
        height, width = shape[2:] if planar else shape[1:3]
        rows, columns = (
            _kept(side, whole, bundle.config.halo) for side, whole in zip((height, width), lr.shape[:2], strict=True)
        )
        if min(rows, columns) < min(LEAST_SIDE, height, width):
            return None
        frame = np.pad(lr, ((0, max(0, height - len(lr))), (0, max(0, width - lr.shape[1])), (0, 0)), "symmetric")
        batch = np.broadcast_to(frame[:height, :width], (shape[0], height, width, 3))
        big = _run_planar(run, batch) if planar else run(np.ascontiguousarray(batch))
        s = bundle.config.scale
        expected = np.broadcast_to(reference[: rows * s, : columns * s], (shape[0], rows * s, columns * s, 3))
        # Frames of a batch are stacked into one picture.
        found = difference(
            np.ascontiguousarray(big[:, : rows * s, : columns * s]).reshape(-1, columns * s, 3),
            np.ascontiguousarray(expected).reshape(-1, columns * s, 3),
        )
        gate = golden_gate(graph, bundle.manifest)
        if not gate.admits(found):
            others = passing(shape)
            advice = f"load it with precision {' or '.join(others)}" if others else "no other precision passes either"
            raise BackendError(
                f"the {graph} engine is refused: on the golden frame it comes to {found.psnr_db:.1f} dB "
                f"({gate.least_db:.1f} needed) and {found.max_levels} levels, on this GPU: {advice}"
            )
        return found.psnr_db

    return test


def _kept(side: int, whole: int, halo: int) -> int:
    """How much of the golden frame counts along one axis, in an engine of ``side``."""
    return side if side == whole else min(side, whole) - halo


def _run_planar(run: Callable[[_Batch], _Batch], batch: _Batch) -> _Batch:
    """uint8 NHWC through a float32 NCHW graph."""
    big = run(np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / np.float32(255))
    levels: _Batch = np.rint(big.transpose(0, 2, 3, 1).clip(0, 1) * 255).astype(np.uint8)
    return levels
