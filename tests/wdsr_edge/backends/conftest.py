"""What tests on a simulated GPU share."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.strategies import trained_like
from tests.wdsr_edge.backends.tensorrt.schedules import OURS, Code
from wdsr_edge.config import ModelConfig
from wdsr_export import export_onnx


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "m.onnx"
    export_onnx(trained_like(ModelConfig.from_name("wdsr-b-1x8-x2")), path)
    return path


@pytest.fixture(scope="session")
def code() -> Code:
    """The modules under test; test_planted_bugs.py has others."""
    return OURS


@pytest.fixture(scope="module")
def quick_collection() -> Iterator[None]:
    """Garbage is collected after each schedule: only what came since counts."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
