"""The golden frame through engines of other shapes than its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wdsr_edge import BackendError, Bundle
from wdsr_edge.backends import open_session
from wdsr_edge.bundle import Graph
from wdsr_edge.loading import ZOO
from wdsr_edge.proof.golden import golden_test

BUNDLE = Bundle.load(ZOO / "wdsr-b-1x32-x2")
UINT8 = open_session("onnxruntime", BUNDLE.onnx("fp32"))
FLOAT = open_session("onnxruntime", BUNDLE.onnx("fp32", "float32"))
Batch = NDArray[Any]


@pytest.mark.parametrize(
    "shape",
    [
        (1, 96, 128, 3),
        (2, 96, 128, 3),
        (1, 270, 480, 3),
        (1, 480, 270, 3),
        (1, 64, 48, 3),
        (1, 96, 60, 3),
        (1, 1000, 30, 3),
        (1, 97, 127, 3),
        (1, 480, 7, 3),
        (1, 7, 128, 3),
        (1, 3, 96, 128),
        (2, 3, 200, 150),
    ],
)
def test_an_engine_of_any_shape_reproduces_it(shape: tuple[int, ...]) -> None:
    """All of it, as in the whole frame: what a window's border or the mirror image changes is left out."""
    run = FLOAT.run if shape[-1] != 3 else UINT8.run
    decibels = golden_test(BUNDLE, "fp32")(run, shape)
    assert decibels is not None
    assert decibels == pytest.approx(golden_test(BUNDLE, "fp32")(UINT8.run, (1, 96, 128, 3)), abs=1)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 6, 480, 3), (1, 480, 6, 3), (1, 3, 4, 400)])
def test_a_shape_that_is_too_small_tells_nothing(shape: tuple[int, ...]) -> None:
    def run(batch: Batch) -> Batch:
        raise AssertionError("nothing to be compared")

    assert golden_test(BUNDLE, "fp32")(run, shape) is None


@pytest.mark.parametrize("place", [(0, 0, 0), (0, 90, 110), (1, 40, 60), (0, 260, 470)])
def test_what_is_wrong_anywhere_is_found(place: tuple[int, int, int]) -> None:
    def run(batch: Batch) -> Batch:
        big = UINT8.run(batch).copy()
        n, row, column = place
        big[n, 2 * row : 2 * row + 20, 2 * column : 2 * column + 20] ^= 32
        return big

    with pytest.raises(
        BackendError,
        match=r"the fp16 engine is refused: .* needed\) and 32 levels, .* on this GPU: name another one$",
    ):
        golden_test(BUNDLE, "fp16")(run, (2, 270, 480, 3))


@pytest.mark.parametrize(("graph", "levels"), [("int8", 3), ("fp16", 1)])
def test_one_decibel_less_than_recorded_is_the_limit(graph: Graph, levels: int) -> None:
    recorded = min(found["golden_db"] for found in BUNDLE.manifest["parity"][graph].values())
    lr, sr = BUNDLE.golden()

    def noisy(decibels: float) -> Batch:
        """``sr`` with so much noise: of each so many values, one is off."""
        share = 10 ** (-decibels / 10) * 255**2 / levels**2
        wrong = np.random.default_rng(0).random(sr.shape) < share
        return np.where(wrong, np.where(sr > 128, sr - levels, sr + levels), sr).astype(np.uint8)[None]

    test = golden_test(BUNDLE, graph, "wdsr-edge compile NAME tests all")
    assert test(lambda batch: noisy(recorded - 0.7), (1, *lr.shape)) == pytest.approx(recorded - 0.7, abs=0.2)
    with pytest.raises(BackendError, match=r"levels, in this precision on this GPU: wdsr-edge compile NAME tests all$"):
        test(lambda batch: noisy(recorded - 1.3), (1, *lr.shape))
