"""The CUDA functions in use are those of the installed cuda-bindings, and the simulated GPU's.

tests/packaging/check_cuda_bindings.py runs this with the oldest and the newest release that are supported.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cuda_names import Attribute, Error, Kind, Mode
from tests.simulated_cuda import Device
from wdsr_edge import BackendError
from wdsr_edge.backends.tensorrt import contexts as _contexts
from wdsr_edge.backends.tensorrt import cuda as _cuda
from wdsr_edge.backends.tensorrt import session as tensorrt
from wdsr_edge.backends.tensorrt import slots as _slots

bindings: Any = pytest.importorskip("cuda.bindings", reason="cuda-bindings are not installed")
runtime: Any = pytest.importorskip("cuda.bindings.runtime")
SOURCES = "".join(Path(str(module.__file__)).read_text() for module in (_cuda, _contexts, _slots, tensorrt))
FUNCTIONS = sorted(
    {name for name in re.findall(r'"(cuda[A-Z]\w+)"', SOURCES) if inspect.isfunction(vars(Device).get(name))}
)


def test_the_release_is_the_one_that_was_asked_for() -> None:
    assert bindings.__version__ == os.environ.get("CUDA_BINDINGS", bindings.__version__)


def test_all_that_is_called_is_simulated() -> None:
    called = set(re.findall(r'(?:call|_own|_release)\(\s*"(cuda\w+)"', SOURCES))
    assert len(called) > 20
    assert called <= {*FUNCTIONS}
    simulated = {name for name, value in vars(Device).items() if name.startswith("cuda") and inspect.isfunction(value)}
    assert simulated == {*FUNCTIONS}, "and nothing else is"


def calls_of_cuda() -> list[tuple[str, ast.Call]]:
    """Each call in the whole package in which one of CUDA's functions is named."""
    root = Path(str(_cuda.__file__)).parents[2]
    found = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert not re.search(r"runtime\.cuda\w+$", ast.unparse(node.func)), f"{path}:{node.lineno}: unchecked"
                texts = [part.value for part in node.args if isinstance(part, ast.Constant)]
                found += [(text, node) for text in texts if isinstance(text, str) and re.match("cuda[A-Z]", text)]
    return found


def test_each_is_called_with_as_many_arguments_as_it_takes() -> None:
    found = calls_of_cuda()
    assert len(found) > 25
    for name, node in found:
        what, function = ast.unparse(node), ast.unparse(node.func)
        if name.startswith(("cudaDevAttr", "cudaMemcpyHost", "cudaMemcpyDevice")):
            assert function.endswith(("attribute", "_copy")), what
            continue
        takes = len(inspect.signature(vars(Device)[name]).parameters) - 1
        if function.endswith(".call"):
            assert not node.keywords
            if not any(isinstance(part, ast.Starred) for part in node.args):
                assert len(node.args) - 1 == takes, what
        else:
            assert function.endswith(("_own", "_release")), what
            assert takes == 1, what


def test_attributes_and_flags_are_known() -> None:
    """Those here are compared with the installed release below."""
    assert {*re.findall(r'"(cudaDevAttr\w+)"', SOURCES)} <= {member.name for member in Attribute}
    used = {*re.findall(r"runtime\.(cuda\w+)", SOURCES)} - {"cudaDeviceAttr", "cudaMemcpyKind", "cudaStreamCaptureMode"}
    assert used == {"cudaStreamNonBlocking", "cudaHostAllocMapped", "cudaEventBlockingSync"}


def test_there_is_one_way_to_cuda() -> None:
    assert re.findall(r"getattr\([\w.]*runtime, (\w+)\)", SOURCES) == ["function"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_the_simulated_one_takes(name: str) -> None:
    first = str(getattr(runtime, name).__doc__).partition("\n")[0]
    listed = first[first.index("(") + 1 : first.rindex(")")]
    simulated = list(inspect.signature(vars(Device)[name]).parameters)[1:]
    assert len([part for part in listed.split(",") if part.strip()]) == len(simulated), first


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(Kind, "cudaMemcpyKind"), (Mode, "cudaStreamCaptureMode"), (Attribute, "cudaDeviceAttr"), (Error, "cudaError_t")],
)
def test_enumerations_have_the_same_numbers(ours: Any, theirs: str) -> None:
    for member in ours:
        assert int(getattr(getattr(runtime, theirs), member.name)) == member
    assert runtime.cudaError_t.cudaErrorInsufficientDriver.name == "cudaErrorInsufficientDriver"


def test_flags_have_the_same_numbers() -> None:
    for name in ("cudaStreamNonBlocking", "cudaHostAllocMapped", "cudaEventBlockingSync"):
        assert getattr(runtime, name) == getattr(Device, name)


def test_errors_with_advice_are_errors_there() -> None:
    assert {*_cuda._ADVICE} <= {*dir(runtime.cudaError_t)}


def test_without_a_gpu_it_is_one_line() -> None:
    if int(runtime.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match=r"^cudaGetDeviceCount failed with \w+ \(\d+\): [^\n]+$"):
        _cuda.Cuda()
