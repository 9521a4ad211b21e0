"""Keras HDF5 weights, written here as Keras writes them, against TensorFlow's arithmetic in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wdsr_edge.data.pairs import load_pairs
from wdsr_edge.evaluation import evaluate, mean_score
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import import_weights, reference
from wdsr_edge.models.importers import import_model
from wdsr_edge.models.reference import to_tensor

Array = NDArray[np.float64]
FRAME = sample_frames()["chelsea.png"][100:124, 120:150]
MEAN = np.array([0.4488, 0.4371, 0.4040]) * 255


@dataclass(frozen=True)
class Layer:
    """Conv2D, or tfa's WeightNormalization around one."""

    name: str
    kernel: Array
    """[height, width, inputs, outputs]"""
    bias: Array
    g: Array | None

    @classmethod
    def random(
        cls, name: str, generator: np.random.Generator, size: int, inputs: int, outputs: int, norm: bool
    ) -> Layer:
        kernel = generator.normal(0, (size * size * inputs) ** -0.5, (size, size, inputs, outputs))
        g = generator.uniform(0.5, 1.5, outputs) if norm else None
        return cls(name, kernel, generator.uniform(-0.2, 0.2, outputs), g)

    def __call__(self, x: Array) -> Array:
        """A convolution with SAME padding of [height, width, inputs], in float64."""
        kernel = self.kernel
        if self.g is not None:
            kernel = kernel / np.sqrt((kernel**2).sum((0, 1, 2))) * self.g
        size = len(kernel)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, ((size // 2,) * 2, (size // 2,) * 2, (0, 0))), (size, size), (0, 1)
        )
        found: Array = np.einsum("hwcij,ijco->hwo", windows, kernel) + self.bias
        return found


def depth_to_space(x: Array, scale: int) -> Array:
    height, width, channels = x.shape
    blocks = x.reshape(height, width, scale, scale, channels // scale**2)
    image: Array = blocks.transpose(0, 2, 1, 3, 4).reshape(height * scale, width * scale, -1)
    return image


class Network:
    """krasserm/super-resolution: layers in Keras' order, and what they make of RGB in 0..255."""

    def __init__(
        self, arch: str, blocks: int, c: int, scale: int, norm: bool = False, expansion: int = 3, factor: float = 1
    ) -> None:
        self.arch, self.blocks, self.scale, self.factor = arch, blocks, scale, factor
        generator, self.layers = np.random.default_rng(blocks + c), []
        shapes = {
            "wdsr-a": [(3, c, c * expansion), (3, c * expansion, c)],
            "wdsr-b": [(1, c, c * expansion), (1, c * expansion, int(c * 0.8)), (3, int(c * 0.8), c)],
            "edsr": [(3, c, c), (3, c, c)],
        }[arch]
        stages = [(3, c, c * 4)] * 2 if scale == 4 else [(3, c, c * scale**2)]
        ends = [(3, c, 3 * scale**2), (5, 3, 3 * scale**2)] if arch != "edsr" else [(3, c, c), *stages, (3, c, 3)]
        for i, shape in enumerate([(3, 3, c), *shapes * blocks, *ends]):
            kind = "weight_normalization" if norm else "conv2d"
            self.layers.append(Layer.random(f"{kind}_{i}" if i else kind, generator, *shape, norm))

    def __call__(self, rgb: Array) -> Array:
        layers = iter(self.layers)
        normal = (rgb - MEAN) / 127.5
        x = head = next(layers)(normal)
        for _ in range(self.blocks):
            y = np.maximum(next(layers)(x), 0)
            for _ in range(2 if self.arch == "wdsr-b" else 1):
                y = next(layers)(y)
            x = x + y * self.factor
        if self.arch == "edsr":
            x = next(layers)(x) + head
            for factor in (2, 2) if self.scale == 4 else (self.scale,):
                x = depth_to_space(next(layers)(x), factor)
            x = next(layers)(x)
        else:
            x = depth_to_space(next(layers)(x), self.scale) + depth_to_space(next(layers)(normal), self.scale)
        image: Array = x * 127.5 + MEAN
        return image


def write(path: Path, layers: list[Layer], layout: str = "weights") -> Path:
    """``weights`` and ``model`` as TensorFlow 2 writes them, ``legacy`` as Keras 3 does, ``keras 3`` its own."""
    with h5py.File(path, "w") as file:
        if layout == "keras 3":
            file.create_group("layers/input_layer/vars")
            for layer in layers:
                group = file.create_group(f"layers/{layer.name}/vars")
                group["0"], group["1"] = layer.kernel.astype("f4"), layer.bias.astype("f4")
            return path
        root = file.create_group("model_weights") if layout == "model" else file
        if layout == "model":
            file.create_group("optimizer_weights")["iterations:0"] = 7
        names = ["input_1", "lambda", *(layer.name for layer in layers), "lambda_1"]
        root.attrs["layer_names"] = [name.encode() for name in names]
        root.attrs["backend"] = b"tensorflow"
        for name in names:
            root.create_group(name).attrs["weight_names"] = np.zeros(0)
        for layer in layers:
            root[layer.name].attrs["weight_names"] = fill(root[layer.name], layer, "" if layout == "legacy" else ":0")
    return path


def fill(group: Any, layer: Layer, end: str) -> list[bytes]:
    arrays: dict[str, Any] = {} if layer.g is None else {"g": layer.g.astype("f4")}
    arrays |= {"kernel": layer.kernel.astype("f4"), "bias": layer.bias.astype("f4")}
    if layer.g is not None:
        arrays["initialized"] = np.bool_(True)
    for name, array in arrays.items():
        group[f"{layer.name}/{name}{end}"] = array
    return [f"{layer.name}/{name}{end}".encode() for name in arrays]


def same(path: Path, network: Network, **numbers: Any) -> Any:
    found = import_model(path, **numbers)
    with torch.no_grad():
        image = found.model(to_tensor(FRAME[None]))[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(image, network(FRAME.astype(np.float64)) / 255, rtol=0, atol=1e-5)
    return found


@pytest.mark.parametrize(
    ("norm", "layout"),  # tensorflow-addons ended before Keras 3
    [(False, "weights"), (True, "weights"), (False, "model"), (True, "model"), (False, "legacy"), (False, "keras 3")],
)
@pytest.mark.parametrize("arch", ["wdsr-a", "wdsr-b"])
def test_wdsr(tmp_path: Path, arch: str, norm: bool, layout: str) -> None:
    network = Network(arch, 4, 10, 3, norm)  # more than ten layers, so that their order is not that of their names
    found = same(write(tmp_path / "weights.h5", network.layers, layout), network)
    assert (found.model.config.name, found.model.config.expansion) == (f"{arch}-4x10-x3", 3)
    assert found.model.config.norm == ("weight" if norm else "none")
    assert found.origin == "krasserm/super-resolution (Keras)"
    assert found.notes == ()


@given(
    arch=st.sampled_from(["wdsr-a", "wdsr-b", "edsr"]),
    blocks=st.integers(1, 5),
    c=st.sampled_from([2, 4, 12, 27]),
    scale=st.sampled_from([2, 3, 4]),
    norm=st.booleans(),
    expansion=st.integers(1, 6),
)
@settings(max_examples=15)
def test_whatever_the_size(
    tmp_path_factory: pytest.TempPathFactory, arch: str, blocks: int, c: int, scale: int, norm: bool, expansion: int
) -> None:
    network = Network(arch, blocks, c, scale, norm, expansion)
    found = same(write(tmp_path_factory.mktemp("any") / "w", network.layers), network)
    assert found.model.config.name == f"{arch}-{blocks}x{c}-x{scale}"


def test_residual_scaling_is_given(tmp_path: Path) -> None:
    network = Network("wdsr-b", 2, 10, 2, factor=0.2)
    found = same(write(tmp_path / "weights.h5", network.layers), network, res_scale=0.2)
    assert found.given == {"res_scale"}


def test_the_skip_may_stand_first(tmp_path: Path) -> None:
    network = Network("wdsr-b", 2, 10, 2)
    same(write(tmp_path / "weights.h5", [network.layers[-1], *network.layers[:-1]]), network)


def test_long_lists_of_names_are_split_as_keras_does(tmp_path: Path) -> None:
    network = Network("wdsr-a", 2, 10, 2)
    with h5py.File(write(tmp_path / "weights.h5", network.layers), "a") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        for i, part in enumerate(np.array_split(names, 3)):
            file.attrs[f"layer_names{i}"] = part
    same(tmp_path / "weights.h5", network)


def test_g_and_kernel_are_kept_as_they_are(tmp_path: Path) -> None:
    network = Network("wdsr-b", 1, 10, 2, True)
    found = import_weights(write(tmp_path / "weights.h5", network.layers))
    g, v = found.get_submodule("body.0.branch.0.parametrizations.weight").parameters()
    layer = network.layers[1]
    assert layer.g is not None
    np.testing.assert_array_equal(g.detach().flatten().numpy(), layer.g.astype("f4"))
    np.testing.assert_array_equal(v.detach().numpy(), layer.kernel.astype("f4").transpose(3, 2, 0, 1))


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4"])
def test_other_floats_become_float32(tmp_path: Path, dtype: str) -> None:
    network = Network("wdsr-a", 1, 4, 2)
    with h5py.File(write(tmp_path / "weights.h5", network.layers), "a") as file:
        kernel = file["conv2d/conv2d/kernel:0"][()].astype("f2")
        del file["conv2d/conv2d/kernel:0"]
        file["conv2d/conv2d/kernel:0"] = kernel.astype(dtype)
    network.layers[0] = Layer("conv2d", kernel.astype(np.float64), network.layers[0].bias, None)
    same(tmp_path / "weights.h5", network)


@pytest.fixture
def real(shared_data: Path) -> Callable[[str], Path]:
    return lambda name: shared_data / "weights" / name / "weights.h5"


@pytest.mark.parametrize(
    ("name", "model", "norm", "expected"),
    [
        ("krasserm-wdsr-b-16-x4", "wdsr-b-16x32-x4", "none", 31.61),
        ("krasserm-wdsr-b-32-x4-weightnorm", "wdsr-b-32x32-x4", "weight", 32.09),
    ],
)
def test_trained_weights_score_on_set5_what_they_did(
    shared_data: Path, real: Callable[[str], Path], name: str, model: str, norm: str, expected: float
) -> None:
    found = import_weights(real(name))
    assert (found.config.name, found.config.norm) == (model, norm)
    mean = mean_score(evaluate(reference(found), load_pairs([shared_data / "eval" / "Set5"], 4)))
    assert mean.psnr_y == pytest.approx(expected, abs=0.02)
