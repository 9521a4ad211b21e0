"""The deploy graph with one pass left out, against all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from benchmarks.networks import network
from wdsr_edge.backends import open_session
from wdsr_edge.models import fold
from wdsr_export.graph import float_graph
from wdsr_export.passes import UINT8_PASSES, fold_input_affine, fold_output_affine, pad_channels, shuffle_in_nhwc

LEFT_OUT = {
    "all passes": None,
    "without fold_input_affine": fold_input_affine,
    "without fold_output_affine": fold_output_affine,
    "without pad_channels": pad_channels,
    "without shuffle_in_nhwc": shuffle_in_nhwc,
}


@pytest.mark.parametrize("case", LEFT_OUT)
@pytest.mark.parametrize("name", ["wdsr-b-3x32-x2", "wdsr-b-1x32-x4"])
def test_pass(benchmark: Any, frame: NDArray[np.uint8], name: str, case: str) -> None:
    benchmark.group = f"passes, {name}, 480x270"
    graph = float_graph(fold(network(name)))
    for run in UINT8_PASSES:
        if run is not LEFT_OUT[case]:
            run(graph)
    opened = open_session("onnxruntime", ir.to_proto(graph).SerializeToString())
    big = benchmark.pedantic(opened.run, (frame[None],), rounds=15, warmup_rounds=3)
    assert big.shape[1] % 270 == 0
