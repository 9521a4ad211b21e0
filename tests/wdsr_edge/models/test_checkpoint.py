from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import resource
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.strategies import configs, trained_like
from wdsr_edge import CheckpointError, WdsrError
from wdsr_edge.models import EDSR, WDSR, ModelConfig, build, load_checkpoint, save_checkpoint
from wdsr_edge.models.checkpoint import CONFIG_KEY

CONFIG = ModelConfig("wdsr-b", 1, 8, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good checkpoint."""
    save_checkpoint(trained_like(CONFIG), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def refused(path: Path, text: str = ".") -> str:
    """Loading raises a CheckpointError of one line that names the file and says ``text``."""
    with pytest.raises(CheckpointError, match=text) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def write(path: Path, tensors: dict[str, torch.Tensor], config: object = None, **metadata: str) -> Path:
    text = config if isinstance(config, str) else json.dumps(config or CONFIG.to_dict())
    save_file(tensors, path, {CONFIG_KEY: text, **metadata})
    return path


@functools.cache
def good_model() -> EDSR | WDSR:
    return trained_like(CONFIG)


def good_tensors() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in good_model().state_dict().items()}


@given(configs())
@settings(max_examples=20)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig) -> None:
    path = tmp_path_factory.mktemp("round") / "model.safetensors"
    model = trained_like(config).train()
    save_checkpoint(model, path)
    assert model.training
    again = load_checkpoint(path)
    assert again.config == config
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())
    for (name, tensor), (other, back) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(tensor, back)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(trained_like(CONFIG), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_paths_may_be_text_and_folders_are_made(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "model.safetensors"
    save_checkpoint(build(CONFIG), str(target))
    assert load_checkpoint(str(target)).config == CONFIG
    assert os.listdir(target.parent) == ["model.safetensors"]


def test_a_crash_in_the_middle_of_save_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def crash(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(build(CONFIG), path)
    assert path.read_bytes() == before
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(build(CONFIG), path.with_name("fresh.safetensors"))
    assert os.listdir(path.parent) == [path.name]


def test_a_save_that_fails_names_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "model.safetensors", tmp_path / "folder"):
        with pytest.raises(WdsrError, match=target.name):
            save_checkpoint(build(CONFIG), target)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# Hostile and damaged files


def test_missing_files_and_folders(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.safetensors", "no such file")
    refused(tmp_path, "a directory")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 8,
        b"\xff" * 8,
        b"\xff" * 4096,
        b"not a checkpoint" * 100,
        b"PK\x03\x04" + b"\0" * 100,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100 * 2**20 + 1) + b"{}",
        struct.pack("<Q", 5) + b'{"a":',
    ],
    ids=lambda data: repr(data[:12]),
)
def test_files_of_another_kind(tmp_path: Path, data: bytes) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(data)
    refused(target, "not a safetensors file|not a wdsr-edge checkpoint")


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps({"__metadata__": {CONFIG_KEY: json.dumps(CONFIG.to_dict())}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "header",
    [
        {"head.bias": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}},
        {"head.bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]}},
        {"head.bias": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {"head.bias": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {"head.bias": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}},
        {"head.bias": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}},
        {"head.bias": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}},
        {"head.bias": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}},
        {"head.bias": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}},
        {"head.bias": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]}},
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in ("head.bias", "tail.bias")},
        {"head.bias": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}},
        {"head.bias": None},
        {"head.bias": "model.pkl"},
    ],
    ids=lambda header: json.dumps(header)[:60],
)
def test_headers_that_lie(tmp_path: Path, header: Any) -> None:
    target = tmp_path / "model.safetensors"
    for data in (b"", b"\0\0\0", b"\0" * 8):
        target.write_bytes(with_header(header, data))
        refused(target)


def test_truncated_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for length in {*range(0, len(data), 997), 7, 8, 9, len(data) - 1, len(data) - 4}:
        path.write_bytes(data[:length])
        refused(path, "not a safetensors file")
    path.write_bytes(data + b"\0")
    refused(path, "not a safetensors file")


@given(st.data())
@settings(max_examples=150)
def test_a_damaged_byte_is_a_checkpoint_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    if not path.exists():
        save_checkpoint(trained_like(CONFIG), path)
    whole = path.read_bytes()
    place = data.draw(st.integers(0, 2500), "place")  # the header is what matters
    damaged = path.with_name("one.safetensors")
    damaged.write_bytes(whole[:place] + data.draw(st.binary(min_size=1, max_size=3), "bytes") + whole[place + 1 :])
    with contextlib.suppress(CheckpointError):
        load_checkpoint(damaged)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps(Payload(marker))
    pickle.loads(data)  # the payload works
    assert marker.exists()
    marker.unlink()
    target = tmp_path / "model.safetensors"
    target.write_bytes(data)
    refused(target, "not a safetensors file")
    torch.save({"weight": Payload(marker)}, target)
    refused(target, "not a safetensors file")
    torch.save({"weight": Payload(marker)}, target, _use_new_zipfile_serialization=False)
    refused(target, "not a safetensors file")
    assert not marker.exists()


def test_without_a_config(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    save_file(good_tensors(), target)
    refused(target, "not a wdsr-edge checkpoint")
    save_file(good_tensors(), target, {"config": "{}"})
    refused(target, "not a wdsr-edge checkpoint")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"wdsr-b-3x32-x2"',
        "{}",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 5000,
        '{"arch": "wdsr-b", "blocks": 1, "channels": 8, "scale": 2, "halo": 3}',
        '{"arch": "wdsr-b", "blocks": 1, "channels": 8, "scale": 7}',
        '{"arch": "wdsr-b", "blocks": 1, "channels": 8, "scale": 2, "std": NaN}',
        '{"arch": "wdsr-b", "blocks": 1, "channels": 8, "scale": 2, "std": 1e999}',
        '{"arch": "wdsr-b", "blocks": 1, "channels": 8, "scale": 2, "std": 1' + "0" * 400 + "}",
        '{"arch": "wdsr-b", "blocks": 99999999999999999999, "channels": 8, "scale": 2}',
        '{"arch": "os.system", "blocks": 1, "channels": 8, "scale": 2}',
    ],
    ids=lambda text: text[-40:],
)
def test_bad_configs(tmp_path: Path, text: str) -> None:
    target = tmp_path / "model.safetensors"
    save_file(good_tensors(), target, {CONFIG_KEY: text})
    refused(target, "bad config in its metadata")


@pytest.mark.parametrize(
    "size", [(9999, 9999), (1, 9999), (9999, 4), (200, 200)], ids=lambda size: f"{size[0]}x{size[1]}"
)
@pytest.mark.parametrize("arch", ["edsr", "wdsr-a", "wdsr-b"])
def test_huge_configs_are_refused_fast_and_without_memory(tmp_path: Path, arch: Any, size: tuple[int, int]) -> None:
    config = ModelConfig(arch, *size, 4)
    target = write(tmp_path / "model.safetensors", good_tensors(), config.to_dict())
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refused(target, "parameters")
    assert time.process_time() - start < 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << (20 if sys.platform == "darwin" else 10)


def test_a_tensor_missing_extra_or_of_another_shape_or_dtype(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    for name in good_tensors():
        refused(write(target, {k: v for k, v in good_tensors().items() if k != name}), "missing|parameters")
        tensor = good_tensors()[name]
        for wrong in (torch.cat([tensor, tensor]), tensor[None].clone(), tensor.flatten()):
            if wrong.shape != tensor.shape:
                assert name in refused(write(target, {**good_tensors(), name: wrong.contiguous()}), "needs")
        for dtype in (torch.float64, torch.int32):
            assert name in refused(write(target, {**good_tensors(), name: tensor.to(dtype)}), "needs float32")
        assert name in refused(write(target, {**good_tensors(), f"{name}.": torch.zeros(1)}), "unexpected")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite(tmp_path: Path, value: float) -> None:
    for name in good_tensors():
        tensors = good_tensors()
        tensors[name].view(-1)[-1] = value
        assert name in refused(write(tmp_path / "model.safetensors", tensors), "not finite")


def test_another_networks_weights(tmp_path: Path) -> None:
    for other in ("wdsr-a-1x8-x2", "wdsr-b-2x8-x2", "wdsr-b-1x12-x2", "wdsr-b-1x8-x3", "edsr-1x8-x2"):
        config = ModelConfig.from_name(other)
        refused(write(tmp_path / "model.safetensors", good_tensors(), config.to_dict()), "needs|missing|parameters")


def test_folded_weights_are_not_taken_for_normed_ones(tmp_path: Path) -> None:
    from wdsr_edge.models import fold

    folded = fold(trained_like(CONFIG))
    save_checkpoint(folded, tmp_path / "folded.safetensors")
    assert load_checkpoint(tmp_path / "folded.safetensors").config.norm == "none"
    tensors = dict(folded.state_dict())
    refused(write(tmp_path / "model.safetensors", tensors), "missing|unexpected")


def test_a_network_that_could_not_be_loaded_again_does_not_replace_one_that_can(path: Path) -> None:
    before = path.read_bytes()
    broken: Any = build(CONFIG)
    broken.head.bias.data[0] = float("nan")
    for model in (broken, build(CONFIG).half()):
        with pytest.raises(WdsrError):
            save_checkpoint(model, path)
        assert path.read_bytes() == before
