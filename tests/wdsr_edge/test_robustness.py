"""What degraded pictures give, beside plain enlarging."""

from __future__ import annotations

import numpy as np
import pytest

from wdsr_edge.data.pairs import Pair, bicubic
from wdsr_edge.evaluation import psnr_y
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.robustness import CONDITIONS, compare, degraded, lanczos


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    truths = {f"image-{i}": frame_of_size(110, 120)[:, :: 1 - 2 * i] for i in range(2)}
    return [Pair(name, bicubic(truth, 1 / 2), np.ascontiguousarray(truth)) for name, truth in truths.items()]


def test_every_condition_is_degraded_in_its_own_way(pairs: list[Pair]) -> None:
    assert len(CONDITIONS) == 20
    seen = {next(iter(degraded(pairs, text))).lr.tobytes() for text in CONDITIONS.values()}
    assert len(seen) == 20


def test_each_way_gets_the_same_picture_and_bicubic_loses_to_nobody_but_the_better(pairs: list[Pair]) -> None:
    seen: list[bytes] = []

    def worse(frame: np.ndarray) -> np.ndarray:
        seen.append(frame.tobytes())
        return np.clip(bicubic(frame, 2).astype(int) + 9, 0, 255).astype(np.uint8)

    found = compare({"worse": worse, "same": lambda frame: bicubic(frame, 2)}, pairs, "area+noise:3", 2)
    assert list(found) == ["worse", "same", "bicubic", "Lanczos"]
    assert found["worse"].lost == ["image-0", "image-1"]
    assert found["same"].lost == found["bicubic"].lost == []
    (first, second) = degraded(pairs, "area+noise:3")
    assert seen == [first.lr.tobytes(), second.lr.tobytes()]
    scores = [psnr_y(pair, lanczos(pair.lr, 2)) for pair in (first, second)]
    assert found["Lanczos"].mean.psnr_y == pytest.approx(np.mean(scores))
