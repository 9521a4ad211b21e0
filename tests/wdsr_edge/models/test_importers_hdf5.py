"""HDF5 files that are damaged, foreign or hostile: each is refused in one line, whatever the library does with it."""

from __future__ import annotations

import random
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.foreign import refused
from wdsr_edge import CheckpointError
from wdsr_edge._errors import MissingExtraError
from wdsr_edge.models import import_weights
from wdsr_edge.models.importers import keras

KERNEL, BIAS = "conv2d/conv2d/kernel:0", "conv2d/conv2d/bias:0"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file, to spoil: WDSR-A of one block."""
    path = tmp_path / "weights.h5"
    shapes = [(3, 3, 3, 4), (3, 3, 4, 8), (3, 3, 8, 4), (3, 3, 4, 12), (5, 5, 3, 12)]
    names = [f"conv2d_{i}" if i else "conv2d" for i in range(len(shapes))]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name, shape in zip(names, shapes, strict=True):
            group = file.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            group[f"{name}/kernel:0"] = np.full(shape, 0.1, "f4")
            group[f"{name}/bias:0"] = np.zeros(shape[-1], "f4")
    return path


def test_the_good_one_is_taken(path: Path) -> None:
    assert import_weights(path).config.name == "wdsr-a-1x4-x2"


def replaced(name: str, **options: Any) -> Callable[[Any], None]:
    def spoil(file: Any) -> None:
        old = file[name][()]
        del file[name]
        file.create_dataset(name, **{"data": old, **options})

    return spoil


def linked(make: Callable[[], Any]) -> Callable[[Any], None]:
    def spoil(file: Any) -> None:
        del file[KERNEL]
        file[KERNEL] = make()

    return spoil


def attribute(name: str, value: Any, group: str = "/") -> Callable[[Any], None]:
    def spoil(file: Any) -> None:
        del file[group].attrs[name]
        if value is not None:
            file[group].attrs[name] = value

    return spoil


def virtual(file: Any) -> None:
    del file[KERNEL]
    layout = h5py.VirtualLayout((3, 3, 3, 4), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 3, 3, 4))
    file.create_virtual_dataset(KERNEL, layout)


def promised(file: Any) -> None:
    """A terabyte that was never written."""
    del file[KERNEL]
    file.create_dataset(KERNEL, (2**20, 2**10, 16, 16), "f4")


def cyclic(file: Any) -> None:
    file["conv2d/conv2d"]["conv2d"] = file["conv2d"]
    file.attrs["layer_names"] = [b"conv2d/conv2d/conv2d"] * 50


def of_two_layouts(file: Any) -> None:
    file.create_group("model_weights")


def elsewhere(file: Any) -> None:
    file["model_weights"] = h5py.ExternalLink("/dev/stdin", "/")


def nested(file: Any) -> None:
    name = "/".join(["a"] * 500)
    file.create_group(name).attrs["weight_names"] = [b"kernel:0"]
    file.attrs["layer_names"] = [name.encode()]


def emptied(file: Any) -> None:
    for name in (*file, "layer_names"):
        del (file.attrs if name == "layer_names" else file)[name]


SPOILT: dict[str, tuple[Callable[[Any], None], str]] = {
    "soft link": (linked(lambda: h5py.SoftLink("/conv2d_1/conv2d_1/kernel:0")), "a link to elsewhere"),
    "soft link to itself": (linked(lambda: h5py.SoftLink(f"/{KERNEL}")), "a link to elsewhere"),
    "external link": (
        linked(lambda: h5py.ExternalLink("/etc/passwd", "/")),
        "is a link to elsewhere",
    ),
    "external storage": (
        replaced(KERNEL, data=None, shape=(3, 4), dtype="f4", external="/etc/passwd"),
        "another file",
    ),
    "external link for all": (elsewhere, "model_weights in / is a link to elsewhere"),
    "virtual dataset": (virtual, "lies in another file"),
    "chunked": (replaced(KERNEL, chunks=(3, 3, 3, 4)), "chunked, compressed"),
    "compressed": (replaced(KERNEL, compression="gzip"), "chunked, compressed"),
    "a promised terabyte": (promised, r"\[1048576, 1024, 16, 16\] is larger than the file"),
    "integers": (replaced(KERNEL, data=np.ones((3, 3, 3, 4), "i4")), "is int32: expected float32"),
    "texts": (replaced(KERNEL, data=np.array([b"a", b"b"])), r"is \|S1: expected float32"),
    "references": (replaced(KERNEL, data=None, shape=(3,), dtype=h5py.ref_dtype), "is object: expected float32"),
    "records": (replaced(KERNEL, data=np.zeros(3, [("a", "f4"), ("b", "i8")])), "expected float32"),
    "complex": (replaced(KERNEL, data=np.ones((3, 3, 3, 4), "c8")), "is complex64: expected float32"),
    "nothing": (replaced(KERNEL, data=h5py.Empty("f4")), "expected float32"),
    "no elements": (replaced(KERNEL, data=np.zeros((3, 3, 0, 4), "f4")), r"kernel:0 \[3, 3, 0, 4\] is empty"),
    "a scalar": (replaced(KERNEL, data=np.float32(1)), r"conv2d/kernel:0 \[\] is not a kernel"),
    "nan": (
        replaced(KERNEL, data=np.full((3, 3, 3, 4), np.nan, "f4")),
        r"conv2d/kernel:0 \[4, 3, 3, 3\] is not finite",
    ),
    "beyond float32": (replaced(KERNEL, data=np.full((3, 3, 3, 4), 1e300)), "is not finite"),
    "a bias of another length": (replaced(BIAS, data=np.zeros(5, "f4")), r"bias:0 \[5\] is not a bias of"),
    "a dense layer": (replaced(KERNEL, data=np.zeros((3, 4), "f4")), r"kernel:0 \[3, 4\] is not a kernel"),
    "no kernel": (attribute("weight_names", [b"conv2d/bias:0"], "conv2d"), r"conv2d/bias:0 \[4\] is not part"),
    "no layer_names": (attribute("layer_names", None), "no Keras weights"),
    "no weight_names": (attribute("weight_names", None, "conv2d"), "/conv2d has no weight_names"),
    "layer_names of numbers": (attribute("layer_names", np.arange(5)), "layer_names of / is not a list of names"),
    "layer_names is one name": (attribute("layer_names", "conv2d"), "is not a list of names"),
    "layer_names of two axes": (attribute("layer_names", [[b"a"], [b"b"]]), "is not a list of names"),
    "layer_names of nothing": (attribute("layer_names", np.zeros(0)), "no convolutions"),
    "layer_names not UTF-8": (attribute("layer_names", [b"\xff\xfe"]), "damaged"),
    "a name of nothing": (attribute("layer_names", [b""]), "missing"),
    "a name that climbs": (attribute("layer_names", [b"../conv2d"]), "missing"),
    "a name from the root": (attribute("weight_names", [b"/conv2d_1/conv2d_1/bias:0"], "conv2d"), "missing"),
    "a name of two lines": (attribute("layer_names", [b"a\nb"]), "a b in / is missing"),
    "a name without end": (attribute("layer_names", ["a" * 30_000]), "missing|a{50}"),
    "the same layer twice": (attribute("layer_names", [b"conv2d", b"conv2d"]), "two of its kernel"),
    "a dataset for a layer": (attribute("layer_names", [KERNEL.encode()]), "has no weight_names"),
    "a group for a weight": (attribute("weight_names", [b"conv2d"], "conv2d"), "conv2d is not a dataset"),
    "two layouts": (of_two_layouts, "no Keras weights"),
    "a group in itself": (cyclic, "two of its kernel"),
    "500 groups deep": (nested, "kernel:0 in .* is missing"),
    "nothing at all": (emptied, "no Keras weights"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_files(path: Path, name: str) -> None:
    spoil, text = SPOILT[name]
    with h5py.File(path, "a") as file:
        spoil(file)
    start = time.perf_counter()
    refused(path, text)
    assert time.perf_counter() - start < 10


def test_truncated_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for length in {*range(8, len(data), len(data) // 12), len(data) - 1}:
        path.write_bytes(data[:length])
        refused(path, "damaged")


@pytest.mark.slow
def test_damaged_bytes_are_weights_or_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of these make the library crash or hang."""
    monkeypatch.setattr(keras, "SECONDS", 5)
    data, generator, messages = path.read_bytes(), random.Random(2), []
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 5, 50))):
            damaged[generator.randrange(12, 4000)] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            import_weights(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(message.startswith(f"{path}: ") and message.isprintable() for message in messages)


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("while True: pass", r"the HDF5 library hangs on it \(1 s\): it is damaged"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the HDF5 library crashes on it: it is damaged"),
        ("import nothing_of_this_name", r"program\.py failed .*nothing_of_this_name"),
    ],
)
def test_a_library_that_hangs_or_crashes_is_no_bug_of_ours(
    path: Path, program: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    monkeypatch.setattr(keras, "PROGRAM", tmp_path / "program.py")
    monkeypatch.setattr(keras, "SECONDS", 1 if "while" in program else 30)
    refused(path, text)


def test_without_h5py_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wdsr-edge\[train\]'"):
        import_weights(path)
