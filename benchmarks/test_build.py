"""Costs paid once: fold, export, load, import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wdsr_edge
from benchmarks.networks import network
from wdsr_edge.models import fold
from wdsr_export import export_onnx

NAME = "wdsr-b-8x32-x4"


def test_fold(benchmark: Any) -> None:
    benchmark.group = f"build, {NAME}"
    model = network(NAME)
    assert benchmark(fold, model).config.norm == "none"


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_export(benchmark: Any, tmp_path: Path, io: Any) -> None:
    benchmark.group = f"build, {NAME}"
    model = network(NAME)
    assert benchmark(lambda: export_onnx(model, tmp_path / "x.onnx", io=io))


def test_load(benchmark: Any) -> None:
    benchmark.group = "load wdsr-b-3x32-x2"
    assert benchmark(lambda: wdsr_edge.load("wdsr-b-3x32-x2")).scale == 2


def test_cold_import(benchmark: Any) -> None:
    benchmark.group = "cold start"
    benchmark.pedantic(lambda: subprocess.run([sys.executable, "-c", "import wdsr_edge"], check=True), rounds=5)


def test_cold_help(benchmark: Any) -> None:
    benchmark.group = "cold start"
    command = [sys.executable, "-m", "wdsr_edge", "--help"]
    benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True), rounds=5)
