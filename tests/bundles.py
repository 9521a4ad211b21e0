"""What the tests of bundles share: how one is spoiled, and how it must be refused."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import wdsr_edge
from wdsr_edge import Bundle, BundleError
from wdsr_edge.bundle import GOLDEN_LR, GOLDEN_SR, MANIFEST, WEIGHTS
from wdsr_edge.models import ModelConfig

CONFIG = ModelConfig("wdsr-b", 1, 2, 2)
FILES = ("fp32.onnx", "fp32-float.onnx", "fp16.onnx", WEIGHTS, GOLDEN_LR, GOLDEN_SR)
REUSED = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Manifest = dict[str, Any]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"hangs for {seconds} s")  # no OSError, which the code would catch

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(path: Path, words: str = ".") -> None:
    """By both entrances, in one line, without hanging."""
    for entrance in (Bundle.load, wdsr_edge.load):
        with at_most(20), pytest.raises(BundleError, match=words) as caught:
            entrance(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 2000


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


def edit(path: Path, change: Callable[[Manifest], object]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def replace(path: Path, name: str, data: bytes) -> None:
    """A file with its hash mended, as whoever made the bundle would."""
    (path / name).write_bytes(data)
    edit(path, lambda manifest: manifest["files"].__setitem__(name, hashlib.sha256(data).hexdigest()))


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def files_of(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(path).items() if name != MANIFEST}


def calibration_within_budget(graph: str = "int8-cpu") -> Manifest:
    """What a manifest says of INT8 that loses next to nothing on any content."""
    fine = {"mean_db": 0.01, "worst_db": 0.02, "to_fp32_db": None}
    return {
        "budget": {"photographs_db": 0.03, "drawn_db": 0.06, "worst_db": 0.11, "to_fp32_db": 47.0},
        "graphs": {graph: {"losses": {"openvino": {"photographs": fine, "text": fine, "flats": fine}}}},
    }
