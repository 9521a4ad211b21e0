"""Sessions and the frame that the suites share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.networks import network
from wdsr_edge.backends import Session, open_session
from wdsr_edge.images.samples import frame_of_size
from wdsr_export import export_onnx


@pytest.fixture
def session(tmp_path: Path) -> Callable[[str, str], Session]:
    def make(name: str, io: str) -> Session:
        path = tmp_path / f"{name}-{io}.onnx"
        export_onnx(network(name), path, io=io)  # type: ignore[arg-type]
        return open_session("onnxruntime", path.read_bytes())

    return make


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    return frame_of_size(270, 480)
