"""Files that are damaged, foreign or hostile: each is refused in one line, and nothing in it is run."""

from __future__ import annotations

import os
import pickle
import random
import struct
import time
import warnings
import zipfile
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.foreign import refused
from wdsr_edge.models import import_weights
from wdsr_edge.models.importers import convolutions, state_dict


def plain(c: int = 8, wide: int = 24, low: int = 6, scale: int = 2, blocks: int = 2) -> dict[str, Tensor]:
    """A state dict of WDSR-B."""
    outputs = 3 * scale**2
    shapes = {"head": (c, 3, 3, 3), "tail": (outputs, c, 3, 3), "skip": (outputs, 3, 5, 5)}
    for i in range(blocks):
        shapes |= {f"body.{i}.0": (wide, c, 1, 1), f"body.{i}.2": (low, wide, 1, 1), f"body.{i}.3": (c, low, 3, 3)}
    names = ["head", *(name for name in shapes if name.startswith("body")), "tail", "skip"]
    state = {f"{name}.weight": torch.full(shapes[name], 0.1) for name in names}
    return state | {f"{name}.bias": torch.zeros(shapes[name][0]) for name in names}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_the_good_one_is_taken(path: Path) -> None:
    torch.save(plain(), path)
    assert import_weights(path).config.name == "wdsr-b-2x8-x2"


# Whole files


def test_missing_files_and_folders(tmp_path: Path) -> None:
    refused(tmp_path / "none.pt", "no such file")
    refused(tmp_path, "a directory")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"PK",
        b"\x80\x02",
        b"PK\x03\x04" + b"\0" * 100,
        b"PK\x05\x06" + b"\0" * 18,
        b"\x89HDF",
        b"\x89HDF\r\n\x1a\n",
        b"\x89HDF\r\n\x1a\n" + b"\xff" * 5000,
        b"\x80\x02}q\x00.",
        b"\x80\x04" + random.Random(0).randbytes(3000),
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 5) + b'{"a":',
        struct.pack("<Q", 2**63) + b"{}",
        b"not weights\n" * 100,
        random.Random(1).randbytes(5000),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_files_of_another_kind(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    refused(path, "neither|damaged|no state dict|holds no|not PyTorch's|no HDF5")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_anywhere(path: Path, zipped: bool) -> None:
    torch.save({"state_dict": plain(), "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for length in {*range(0, len(data), len(data) // 40), 1, 2, 8, 9, len(data) - 1}:
        path.write_bytes(data[:length])
        refused(path, "damaged|neither")


def test_a_file_larger_than_any_network(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(convolutions.LARGEST + 1)
    refused(path, "more than 1 GiB")


def test_a_zip_file_that_unpacks_to_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_dict, "LARGEST", 1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", b"\0" * (2 << 20))
    assert path.stat().st_size < 10_000
    refused(path, "unpacks to more")


def test_a_keras_archive_is_named(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refused(path, r"unzip model\.weights\.h5 from it")


# What is not run


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("forced", [False, True])
def test_a_pickle_is_never_executed(tmp_path: Path, path: Path, forced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(marker)))  # the payload works
    assert marker.exists()
    marker.unlink()
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps(Payload(marker), protocol))
        refused(path, "objects|damaged")
    for zipped in (True, False):
        torch.save({**plain(), "extra": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
        refused(path, r"it holds objects \(posix\.system\).*save model\.state_dict\(\) alone")
    assert not marker.exists()


class Call:
    """Unpickles to ``function(*arguments)``, with ``state`` set."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments, *(() if state is None else (state,)))

    def __reduce__(self) -> Any:
        return self.made


def empty_array() -> Any:
    return np.zeros(0).__reduce__()[0]


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "in an array of objects": lambda marker: np.array([Payload(marker)], dtype=object),
    "as a scalar of objects": lambda marker: Call(np.float64(1).__reduce__()[0], np.dtype("O"), Payload(marker)),
    "made by defaultdict": lambda marker: defaultdict(os.getcwd, {"a": Payload(marker)}),
    "numpy reads a file": lambda marker: Call(np.fromfile, str(marker)),
    "numpy loads a pickle": lambda marker: Call(np.load, str(marker), None, True),
    "numpy calls back": lambda marker: Call(np.apply_along_axis, os.system, 0, np.zeros(1)),
}
FORGED: dict[str, Callable[[], Any]] = {
    "larger than its data": lambda: Call(
        empty_array(), np.ndarray, (0,), b"b", state=(1, (1 << 40,), np.dtype("f8"), False, b"12345678")
    ),
    "of negative size": lambda: Call(
        empty_array(), np.ndarray, (0,), b"b", state=(1, (-1, -1), np.dtype("f8"), False, b"12345678")
    ),
    "a number of another size": lambda: Call(np.float64(1).__reduce__()[0], np.dtype("f8"), b"1"),
    "half a state": lambda: Call(empty_array(), np.ndarray, (0,), b"b", state=(1, (1,))),
    "a dtype of nothing": lambda: Call(np.ndarray, "x", np.dtype("f8")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_numbers_of_numpy_open_no_door(tmp_path: Path, path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    torch.save({**plain(), "extra": HOSTILE[name](marker)}, path)
    refused(path, "it holds objects")
    assert not marker.exists()


@pytest.mark.parametrize("name", FORGED)
def test_forged_arrays(path: Path, name: str) -> None:
    """Refused, or passed over as what they do not matter for; never believed."""
    torch.save({**plain(), "extra": FORGED[name]()}, path)
    if name == "a dtype of nothing":
        assert import_weights(path).config.name == "wdsr-b-2x8-x2"
    else:
        refused(path, "damaged")


def test_an_array_that_claims_to_hold_objects_is_passed_over(path: Path) -> None:
    """Its bytes would be taken for addresses."""
    state = (1, (2,), np.dtype("O"), False, b"0123456789abcdef")
    torch.save({**plain(), "extra": Call(empty_array(), np.ndarray, (0,), b"b", state=state)}, path)
    assert import_weights(path).config.name == "wdsr-b-2x8-x2"


def test_mappings_that_hold_each_other(path: Path) -> None:
    """A walk through all ways would not end."""
    one: dict[str, Any] = {}
    for i in range(50):
        one[f"ema{i}"] = one
    start = time.perf_counter()
    torch.save({**plain(), "ema": one}, path)
    assert import_weights(path).config.name == "wdsr-b-2x8-x2"
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 3)), r"objects \(torch\.nn\.modules\.container\.Sequential\)"),
        ({"args": Namespace(scale=2), **plain()}, r"objects \(argparse\.Namespace\)"),
        ({}, "no state dict"),
        ([plain()], "no state dict"),
        (torch.zeros(3), "no state dict"),
        (7, "no state dict"),
        ({1: torch.zeros(3), None: plain(), (2,): 3}, "no state dict"),
        ({"a": {"b": {}}, "weight": None}, "no state dict"),
        ({"x": torch.zeros(3)}, "holds no convolutions"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else type(value).__name__,
)
def test_files_of_torch_save_that_are_no_state_dict(path: Path, content: object, text: str, zipped: bool) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path, text)


def test_a_torchscript_archive(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 3)), path)
    refused(path, r"TorchScript.*state_dict\(\) alone")


def test_mappings_that_contain_themselves_or_each_other_many_times(path: Path) -> None:
    nest: dict[str, Any] = {"x": torch.zeros(3)}
    nest["self"] = nest
    for _ in range(6):
        nest = {str(i): nest for i in range(50)}
    torch.save(nest, path)
    refused(path, "no state dict|no convolutions")
    torch.save({**nest, "model": plain()}, path)
    assert import_weights(path).config.channels == 8


# Tensors


def with_(**changed: Tensor | None) -> dict[str, Tensor]:
    """The good state dict with tensors replaced, added or (None) left out; ``__`` is a dot."""
    state = {**plain(), **{name.replace("__", "."): tensor for name, tensor in changed.items()}}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def spoilt(name: str, value: float) -> dict[str, Tensor]:
    state = plain()
    state[name].view(-1)[-1] = value
    return state


HEAD, WIDE = torch.ones(8, 3, 3, 3), torch.ones(24, 8, 1, 1)
BAD_TENSORS: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "nan": (lambda: spoilt("tail.weight", float("nan")), r"tail\.weight \[12, 8, 3, 3\] is not finite"),
    "infinity in a bias": (lambda: spoilt("skip.bias", float("inf")), r"skip\.bias \[12\] is not finite"),
    "beyond float32": (lambda: with_(head__weight=HEAD.double() * 1e300), r"head\.weight .* is not finite"),
    "integers": (lambda: with_(head__weight=HEAD.to(torch.int8)), r"head\.weight \[8, 3, 3, 3\] is int8: save it as"),
    "booleans": (lambda: with_(head__weight=HEAD.bool()), "is bool"),
    "complex": (lambda: with_(head__weight=HEAD.to(torch.complex64)), "is complex64"),
    "8-bit floats": (lambda: with_(head__weight=HEAD.to(torch.float8_e4m3fn)), "is float8_e4m3fn|damaged"),
    "sparse": (lambda: with_(head__weight=HEAD.to_sparse()), "head.weight is sparse, nested, quantised or"),
    "meta": (lambda: with_(head__weight=HEAD.to("meta")), "head.weight is sparse, nested, quantised or"),
    "colours exchanged": (lambda: with_(x__weight=torch.eye(3).flip(0).view(3, 3, 1, 1)), r"x\.weight \[3, 3, 1, 1\]"),
    "empty": (lambda: with_(head__weight=torch.zeros(0, 3, 3, 3)), r"head\.weight \[0, 3, 3, 3\] is not a kernel"),
    "scalar": (lambda: with_(head__weight=torch.tensor(1.0)), r"head\.weight \[\] is not a kernel"),
    "not square": (lambda: with_(head__weight=torch.ones(8, 3, 3, 1)), "is not a kernel"),
    "7x7": (lambda: with_(head__weight=torch.ones(8, 3, 7, 7)), "is not a kernel .* of size 1, 3 or 5"),
    "a view without end": (lambda: with_(head__weight=torch.zeros(1).expand(2**40, 3, 3, 3)), "more than 1 GiB"),
    "batch norm": (
        lambda: with_(head__1__weight=torch.ones(8), head__1__running_mean=torch.ones(8)),
        r"head\.1\.(weight|running_mean) \[8\] is no",
    ),
    "PReLU": (lambda: with_(body__0__1__weight=torch.ones(1)), r"body\.0\.1\.weight \[1\] is not a kernel"),
    "a factor of its own": (lambda: with_(body__0__scale=torch.tensor(0.1)), r"body\.0\.scale \[\] is not part"),
    "a bias of another length": (
        lambda: with_(head__bias=torch.ones(9)),
        r"head\.bias \[9\] is not a bias of head\.weight",
    ),
    "v without g": (lambda: with_(head__weight=None, head__weight_v=HEAD), r"head\.weight_v .* lacks its g"),
    "g without v": (
        lambda: with_(head__weight=None, head__weight_g=torch.ones(8, 1, 1, 1)),
        r"head\.weight_g .* lacks its v",
    ),
    "weight and v": (lambda: with_(head__weight_v=HEAD), "'head' has two of its v"),
    "v of zero": (
        lambda: with_(head__weight=None, head__weight_v=HEAD * 0, head__weight_g=torch.ones(8, 1, 1, 1)),
        r"head\.weight_v .* weight norm of zero",
    ),
    "norm over inputs": (
        lambda: with_(head__weight=None, head__weight_v=HEAD, head__weight_g=torch.ones(1, 3, 1, 1)),
        r"head\.weight_g \[1, 3, 1, 1\] is not a weight norm over outputs",
    ),
    "norm of the whole": (
        lambda: with_(
            head__weight=None,
            head__parametrizations__weight__original1=HEAD,
            head__parametrizations__weight__original0=torch.tensor(2.0),
        ),
        r"original0 \[\] is not a weight norm over outputs",
    ),
    "a name of two lines": (lambda: {**plain(), "a\nb": torch.ones(2, 2)}, r"a\\nb \[2, 2\] is not part"),
    "a name without end": (lambda: {**plain(), "a." * 50_000: torch.ones(2, 2)}, "a tensor name of 100000 letters"),
    "a number without end": (lambda: {**plain(), "9" * 900: torch.ones(2, 2)}, r"999\.\.\.999+ \[2, 2\] is not part"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_do_not_fit(path: Path, name: str, zipped: bool) -> None:
    make, text = BAD_TENSORS[name]
    torch.save(make(), path, _use_new_zipfile_serialization=zipped)
    start = time.perf_counter()
    refused(path, text)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", ["nan", "integers", "8-bit floats", "empty", "batch norm", "v without g"])
def test_tensors_that_do_not_fit_in_safetensors(path: Path, name: str) -> None:
    make, text = BAD_TENSORS[name]
    save_file(make(), path)
    refused(path, text)


def test_quantised_and_nested_tensors(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(HEAD, 0.1, 0, torch.qint8)
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
    for tensor in (quantised, nested):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(with_(head__weight=tensor), path)
        refused(path, r"head\.weight is sparse, nested, quantised or without data")


# Networks


def without(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in plain().items() if not name.startswith(names)}


BAD_NETWORKS: dict[str, tuple[Callable[[], dict[str, Tensor]], str]] = {
    "grey": (
        lambda: with_(skip__weight=torch.ones(4, 1, 5, 5), skip__bias=None),
        r"skip\.weight \[4, 1, 5, 5\] is not a skip",
    ),
    "x5": (lambda: plain(scale=5), r"skip\.weight \[75, 3, 5, 5\] is not a skip of a WDSR.*scale 2, 3 or 4"),
    "two skips": (lambda: with_(more__weight=torch.ones(12, 3, 5, 5)), "is not a skip of a WDSR: expected one"),
    "no skip": (lambda: without("skip"), "not those of an EDSR .without a 5x5 skip it is not a WDSR."),
    "no head": (lambda: without("head"), "not those of a WDSR: no 3x3 head"),
    "no tail": (lambda: without("tail"), "no 3x3 tail from the head's channels to 12"),
    "no blocks": (lambda: without("body"), r"no blocks between head\.weight \[8, 3, 3, 3\] and tail"),
    "a width of no multiple": (
        lambda: plain(wide=20),
        r"\.0\.0\.weight \[20, .* 20 is not a multiple of 8",
    ),
    "65 times as wide": (lambda: plain(wide=65 * 8), "expansion must be an integer from 0 to 64"),
    "high rank": (lambda: plain(low=9), r"body\.0\.2\.weight \[9, 24, 1, 1\] cannot be the low-rank part"),
    "half a block": (lambda: without("body.1.3"), r"body\.1\.2\.weight \[6, 24, 1, 1\] ends in the middle"),
    "a hole": (lambda: without("body.0.2"), r"body\.0\.3\.weight \[8, 6, 3, 3\] .*(does not fit|low-rank)"),
    "blocks of two widths": (
        lambda: with_(body__1__0__weight=torch.ones(32, 8, 1, 1), body__1__0__bias=None),
        r"body\.1\.0\.weight \[32, 8, 1, 1\] does not fit: convolution 1 of a wdsr-b block of 8 channels would be \[24",
    ),
    "groups of another number": (
        lambda: with_(body__0__0__weight=torch.ones(24, 4, 1, 1), body__1__0__weight=torch.ones(24, 4, 1, 1)),
        r"body\.0\.0\.weight \[24, 4, 1, 1\] takes 4 channels: expected 8, or 2 or 1 in groups",
    ),
    "one convolution more": (lambda: with_(z__weight=torch.ones(8, 8, 3, 3)), r"z\.weight \[8, 8, 3, 3\]"),
    "an EDSR of x8": (
        lambda: {
            f"{i}.weight": torch.ones(shape)
            for i, shape in enumerate([(8, 3, 3, 3), *[(8, 8, 3, 3)] * 3, *[(32, 8, 3, 3)] * 3, (3, 8, 3, 3)])
        },
        "upsampler fits no scale 2, 3 or 4",
    ),
    "VGG": (
        lambda: {"0.weight": torch.ones(64, 3, 3, 3), "2.weight": torch.ones(64, 64, 3, 3)},
        "not those of an EDSR",
    ),
}


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_networks_of_another_kind(path: Path, name: str) -> None:
    make, text = BAD_NETWORKS[name]
    torch.save(make(), path)
    refused(path, text)
