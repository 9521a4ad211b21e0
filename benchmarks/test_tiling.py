"""Tiles against the whole frame, through the public call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wdsr_edge import SuperResolver
from wdsr_edge.backends import Session
from wdsr_edge.config import ModelConfig
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.tiling import tiles

NAME = "wdsr-b-3x32-x2"


@pytest.mark.parametrize("tile", [None, "auto", 256, 128, 64])
def test_tiled_frame(benchmark: Any, session: Callable[[str, str], Session], tile: Any) -> None:
    benchmark.group = f"tiles, {NAME}, 960x540"
    frame = frame_of_size(540, 960)
    opened = session(NAME, "uint8")
    sr = SuperResolver(opened, ModelConfig.from_name(NAME), open_float_session=lambda: opened, tile=tile)
    big = benchmark.pedantic(sr, (frame,), rounds=5, warmup_rounds=1)
    assert np.abs(big.astype(int) - opened.run(frame[None])[0]).max() <= 1


def test_plan(benchmark: Any) -> None:
    benchmark.group = "tile plan, 4000x3000"
    assert len(benchmark(lambda: list(tiles(3000, 4000, 128, 5)))) == 24 * 32
