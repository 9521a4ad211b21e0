"""Blocks of equal shapes, which only their names or the order of the file tell apart, in every kind of file."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tests.foreign import refused
from wdsr_edge.config import ModelConfig
from wdsr_edge.models import build, fold, import_weights

FRAME = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
PARTS = {"wdsr-a": "ab", "wdsr-b": "abc", "edsr": "ab"}
Style = Callable[[int, int], str]
"""The name of convolution ``part`` of a block."""

STYLES: dict[str, Style] = {
    "block1.conv1": lambda block, part: f"block{block}.conv{part}",
    "blocks.0.body.0": lambda block, part: f"blocks.{block}.body.{2 * part}",
    "rb_12.a": lambda block, part: f"rb_{block}.{'abc'[part]}",
    "conv10a": lambda block, part: f"conv{block}{'abc'[part]}",
    "b10c2": lambda block, part: f"b{block}c{part}",
    "10-block.conv_a": lambda block, part: f"trunk.{block}-block.conv_{'abc'[part]}",
    "stage1_12_conv3": lambda block, part: f"net.stage1_{block}_conv{part}",
    "layer (numbered on)": lambda block, part: f"body.layer{3 * block + part}",
    "conv2d_10": lambda block, part: f"body.conv2d_{3 * block + part}" if block + part else "body.conv2d",
    "zero padded": lambda block, part: f"block{block:03}.{part:02}",
    "deep": lambda block, part: f"module.net.group0.block{block}.branch.path1.conv{part}",
}


@cache
def network(arch: Any, blocks: int, channels: int = 8) -> Any:
    torch.manual_seed(blocks)
    model = fold(build(ModelConfig(arch, blocks, channels, 2))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15)
    return model


def renamed(model: Any, style: Style) -> dict[str, Tensor]:
    """The model's tensors with the blocks' convolutions named by ``style``."""
    names: dict[str, str] = {"body_end": "tail_of_body"}
    for conv in model.config.convs:
        if conv.name.startswith("body."):
            _, block, part = conv.name.split(".")
            names[conv.name] = style(int(block), int(part))
    tensors: dict[str, Tensor] = {}
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    for layer, conv in zip(layers, model.config.convs, strict=True):
        for leaf in ("weight", "bias"):
            tensors[f"{names.get(conv.name, conv.name)}.{leaf}"] = (
                model.get_submodule(layer).get_parameter(leaf).detach()
            )
    return tensors


def write(path: Path, tensors: dict[str, Tensor], kind: str, order: str) -> None:
    names = list(tensors)
    if order == "text":
        names.sort()
    elif order == "text, layers":
        names.sort(key=lambda name: name.rpartition(".")[0])
    elif order == "shuffled":
        random.Random(0).shuffle(names)
    found = {name: tensors[name].contiguous() for name in names}
    if kind == "safetensors":
        save_file(found, path)
    elif kind == "h5":
        write_h5(path, found)
    else:
        torch.save(found, path, _use_new_zipfile_serialization=kind == "pth")


def write_h5(path: Path, tensors: dict[str, Tensor]) -> None:
    """As Keras 3 does, whose groups have no order of their own."""
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            layer, _, leaf = name.rpartition(".")
            array = tensor.numpy().transpose(2, 3, 1, 0) if tensor.dim() == 4 else tensor.numpy()
            file[f"layers/{layer}/vars/{['weight', 'bias'].index(leaf)}"] = array


def same(path: Path, model: Any) -> None:
    mine = import_weights(path, mean=model.config.mean, std=model.config.std)
    with torch.no_grad():
        torch.testing.assert_close(mine(FRAME), model(FRAME), rtol=1e-4, atol=1e-4)


@given(
    arch=st.sampled_from(sorted(PARTS)),
    blocks=st.sampled_from([10, 12]),
    style=st.sampled_from(sorted(STYLES)),
    kind=st.sampled_from(["pth", "legacy", "safetensors"]),
    order=st.sampled_from(["training", "text", "text, layers", "shuffled"]),
)
@settings(max_examples=20)
def test_blocks_come_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, arch: str, blocks: int, style: str, kind: str, order: str
) -> None:
    """The network does to a frame what the one did that the file was made of."""
    model = network(arch, blocks)
    path = tmp_path_factory.mktemp("order") / "model"
    if order == "shuffled" and style in ("rb_12.a", "conv10a", "10-block.conv_a"):
        order = "text"  # letters of a shuffled file say nothing
    write(path, renamed(model, STYLES[style]), kind, order)
    same(path, model)


@pytest.mark.parametrize("style", ["block1.conv1", "rb_12.a", "conv10a", "conv2d_10", "b10c2"])
def test_keras_groups_have_no_order_but_their_names(tmp_path: Path, style: str) -> None:
    """Without TensorFlow's order of channels, which one channel of each place has not."""
    model = network("wdsr-a", 11)
    tensors = renamed(model, STYLES[style])
    for name, tensor in tensors.items():  # depth_to_space numbers channels by place first
        if name.startswith(("tail.", "skip.")):
            turned = tensor.view(3, 4, *tensor.shape[1:]).transpose(0, 1)
            tensors[name] = turned.reshape(tensor.shape)
    write(
        tmp_path / "model.weights.h5",
        {name.replace(".", "_", name.count(".") - 1): t for name, t in tensors.items()},
        "h5",
        "",
    )
    same(tmp_path / "model.weights.h5", model)


def test_names_of_layers_sorted_as_text_in_an_older_keras_file(tmp_path: Path) -> None:
    model = network("wdsr-a", 11)
    tensors = renamed(model, STYLES["conv10a"])
    with h5py.File(tmp_path / "model.h5", "w") as file:
        layers = sorted({name.rpartition(".")[0] for name in tensors})
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer in layers:
            kernel, bias = tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]
            if layer in ("tail", "skip"):
                kernel, bias = (t.view(3, 4, *t.shape[1:]).transpose(0, 1).reshape(t.shape) for t in (kernel, bias))
            names = [f"{layer}/kernel:0", f"{layer}/bias:0"]
            file.create_group(layer).attrs["weight_names"] = [name.encode() for name in names]
            file[layer][names[0]] = np.ascontiguousarray(kernel.numpy().transpose(2, 3, 1, 0))
            file[layer][names[1]] = bias.numpy()
    same(tmp_path / "model.h5", model)


@pytest.mark.parametrize("order", ["training", "text"])
def test_numbers_behind_the_parts(tmp_path: Path, order: str) -> None:
    """``expand_1, narrow_1, expand_2 ...``: sorted, shapes tell the parts of WDSR, and nothing those of EDSR."""

    def style(block: int, part: int) -> str:
        return f"body.{('expand', 'narrow', 'out')[part]}_{block}"

    for arch in ("wdsr-a", "wdsr-b"):
        write(tmp_path / arch, renamed(network(arch, 11), style), "pth", order)
        same(tmp_path / arch, network(arch, 11))
    write(tmp_path / "edsr", renamed(network("edsr", 11), style), "pth", order)
    if order == "training":
        same(tmp_path / "edsr", network("edsr", 11))
    else:
        refused(tmp_path / "edsr", "neither the file nor the names tell which comes first")


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_words_have_no_order(tmp_path: Path, kind: str) -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    model = network("wdsr-a", 11)
    tensors = renamed(model, lambda block, part: f"body.{words[block]}.{part}")
    write(tmp_path / "model", tensors, kind, "training")
    if kind == "pth":
        same(tmp_path / "model", model)
    else:
        refused(tmp_path / "model", "body.eight.0.weight and body.five.0.weight: save it with torch.save")


@pytest.mark.parametrize("end", ["after_body", "conv_after_body", "body_end", "conv16", "zzz"])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_the_last_convolution_of_an_edsr_comes_last_whatever_its_name(tmp_path: Path, kind: str, end: str) -> None:
    model = network("edsr", 12)
    tensors = renamed(model, lambda block, part: f"body.{block}.conv{part + 1}")
    tensors = {name.replace("tail_of_body", end): tensor for name, tensor in tensors.items()}
    write(tmp_path / "model", tensors, kind, "text")
    same(tmp_path / "model", model)
