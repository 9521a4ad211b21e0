"""A frame, host to host: the uint8 graph against numpy around the float graph, the same pixels out of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.networks import MODELS
from wdsr_edge.backends import Session

Open = Callable[[str, str], Session]


def around_float(session: Session, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pre- and post-processing that a caller of the float variant does itself."""
    planar = np.ascontiguousarray(frame.transpose(2, 0, 1)[None]).astype(np.float32) / 255
    big = session.run(planar)[0]
    levels = np.clip(np.rint(big * 255), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("name", MODELS)
def test_frame(benchmark: Any, session: Open, frame: NDArray[np.uint8], name: str, io: str) -> None:
    benchmark.group = f"frame 480x270, {name}"
    opened = session(name, io)
    call = (lambda: opened.run(frame[None])[0]) if io == "uint8" else (lambda: around_float(opened, frame))
    big = benchmark.pedantic(call, rounds=15, warmup_rounds=3)
    apart = np.abs(big.astype(int) - around_float(session(name, "float32"), frame))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= 0.001 * apart.size
