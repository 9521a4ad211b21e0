"""TensorRT's form is built by TensorRT for RTX, which compiles without a GPU, and runs in ONNX Runtime."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.wdsr_calibration.test_qdq import FRAME, calibration, simulated
from wdsr_edge.backends.onnxruntime import OnnxRuntimeSession
from wdsr_edge.metrics import psnr
from wdsr_edge.models import ModelConfig, reference
from wdsr_export import export_onnx

BUILD = """
import sys, tensorrt_rtx_bindings as trt
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network(0)
parser = trt.OnnxParser(network, builder.logger)
assert parser.parse(open(sys.argv[1], "rb").read()), [parser.get_error(i).desc() for i in range(parser.num_errors)]
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("lr", (1, 16, 16, 3), (1, 64, 64, 3), (1, 128, 128, 3))
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
assert engine is not None
print(engine.nbytes)
"""


def built(path: Path) -> int:
    """Bytes of the engine that TensorRT for RTX makes of an ONNX file, in a process of its own."""
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("TensorRT for RTX is not installed")
    done = subprocess.run([sys.executable, "-c", BUILD, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("everything", [False, True], ids=["body", "all"])
@pytest.mark.parametrize("identities", [False, True], ids=["float identities", "fused"])
@pytest.mark.parametrize("name", ["wdsr-b-2x8-x2", "wdsr-a-1x8-x3", "edsr-1x8-x4"])
def test_it_builds_and_runs(tmp_path: Path, name: str, identities: bool, everything: bool) -> None:
    found = calibration(ModelConfig.from_name(name), "tensorrt", everything=everything, identities=identities)
    export_onnx(found, tmp_path / "int8.onnx", precision="int8", frames={"chelsea": FRAME})
    session = OnnxRuntimeSession((tmp_path / "int8.onnx").read_bytes(), fuse_int8=False)
    made = session.run(FRAME[None])[0]
    assert psnr(made, reference(simulated(found))(FRAME)) > 45
    assert built(tmp_path / "int8.onnx") > 1000


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_other_precisions_build(tmp_path: Path, precision: str) -> None:
    from tests.strategies import trained_like

    model = trained_like(ModelConfig.from_name("wdsr-b-1x8-x2"))
    export_onnx(model, tmp_path / "m.onnx", precision=precision, frames={"f": np.ascontiguousarray(FRAME)})  # type: ignore[arg-type]
    assert built(tmp_path / "m.onnx") > 1000
