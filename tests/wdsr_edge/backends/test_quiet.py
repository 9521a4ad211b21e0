"""No line of ONNX Runtime's own log reaches whoever runs a command."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.command_line import refused, wdsr_edge
from wdsr_edge import BackendError
from wdsr_edge.backends.onnxruntime import OnnxRuntimeSession
from wdsr_edge.backends.quiet import without_its_log

ROOT = Path(__file__).parents[3]
NOISY = r"""
import importlib.abc, os, sys

class Noisy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime.capi._pybind_state":
            os.write(2, b"\x1b[0;93m2026-01-21 12:08:58.79 [W:onnxruntime:Default, device_discovery.cc:164 Discover"
                b"DevicesForPlatform] GPU device discovery failed: \"/sys/class/drm/card3/device/vendor\"\n\x1b[m\n"
                b"Error in cpuinfo: failed to parse the list of possible processors in /sys/devices/system/cpu\n"
                b"somebody else's line\n")

sys.meta_path.insert(0, Noisy())
"""


def graph() -> bytes:
    """What fails at any frame but of 4x5 pixels, while it runs."""
    lr, sr = (helper.make_tensor_value_info(name, TensorProto.FLOAT, 4 * [None]) for name in ("lr", "sr"))
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [1, 3, 4, 5])
    made = helper.make_graph([helper.make_node("Reshape", ["lr", "shape"], ["sr"])], "graph", [lr], [sr], [shape])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(model.SerializeToString())


def test_a_graph_that_fails_while_it_runs_logs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    session = OnnxRuntimeSession(graph())
    with pytest.raises(BackendError, match="Reshape") as caught:
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    assert "\n" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_foreign_graph_that_fails_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(graph())
    refused(wdsr_edge("verify", "wdsr-b-1x32-x2", "--onnx", tmp_path / "bad.onnx"), "bad.onnx: failed on a float32")
    noise = onnx.ModelProto().SerializeToString() + b"x"
    (tmp_path / "bad.onnx").write_bytes(noise)
    refused(wdsr_edge("verify", "wdsr-b-1x32-x2", "--onnx", tmp_path / "bad.onnx"), "bad.onnx")


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "wdsr-b-1x32-x2", "--json"),
        ("doctor",),
        ("benchmark", "wdsr-b-1x32-x2", "--size", "8x8", "--seconds", "0"),
    ],
)
def test_what_it_warns_of_when_it_is_imported_is_dropped(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOISY)
    paths = (tmp_path, ROOT, ROOT / "export", ROOT / "calibration")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = wdsr_edge(*command, env=env)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("auto is ")]
    assert lines == ["somebody else's line"]


def test_a_closed_stderr_stays_so() -> None:
    code = "from wdsr_edge.backends.quiet import hush, load_onnxruntime; hush(); print(load_onnxruntime('x').__name__)"
    command = f'{sys.executable} -c "{code}" 2>&-'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "onnxruntime\n"


def test_an_exception_lets_everything_through(capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(ZeroDivisionError), without_its_log():
        os.write(2, b"kept\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "kept\n"
