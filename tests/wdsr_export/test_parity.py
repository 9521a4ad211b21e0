"""Parity passes on a correct graph, and names each fault that was planted in one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from wdsr_edge import BundleError, InputError
from wdsr_edge.backends import installed
from wdsr_edge.bundle import write_bundle
from wdsr_edge.images.samples import golden_frame, sample_frames
from wdsr_edge.models import EDSR, WDSR, ModelConfig, build, fold, reference, save_checkpoint
from wdsr_edge.proof.gates import GATES
from wdsr_export import Parity, check_parity, deploy, export_onnx, verify
from wdsr_export.diagnosis import faults
from wdsr_export.graph import float_graph

Rgb = NDArray[np.uint8]
Upscale = Callable[[Rgb], Rgb]
NAMES = ("wdsr-b-1x8-x2", "wdsr-b-1x8-x3", "wdsr-a-1x8-x2", "edsr-1x8-x4")


def phases(scale: int, taps: int, a: float) -> NDArray[np.float64]:
    """Interpolation kernels [scale, taps]: cubic with ``a``, or linear where only three taps fit."""
    found = np.zeros((scale, taps))
    for phase in range(scale):
        centre = taps // 2 + (phase + 0.5) / scale - 0.5
        for tap in range(taps):
            x = abs(tap - centre)
            if taps == 3:
                found[phase, tap] = max(0.0, 1 - x)
            elif x <= 1:
                found[phase, tap] = (a + 2) * x**3 - (a + 3) * x**2 + 1
            elif x < 2:
                found[phase, tap] = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return found / found.sum(1, keepdims=True)


def upsampling_kernel(scale: int, taps: int) -> torch.Tensor:
    """Colours enlarged each on their own: [3 * scale ** 2, 3, taps, taps], (colour, row, column) order."""
    one = phases(scale, taps, -0.5)
    kernel = np.zeros((3, scale, scale, 3, taps, taps))
    for colour in range(3):
        kernel[colour, :, :, colour] = np.einsum("yi,xj->yxij", one, one)
    return torch.from_numpy(kernel.reshape(3 * scale**2, 3, taps, taps)).float()


@lru_cache
def picture_model(name: str, seed: int = 0) -> EDSR | WDSR:
    """Close to bicubic, with a random body that adds a few levels: like a trained network, without the training."""
    torch.manual_seed(seed)
    config = ModelConfig.from_name(name)
    model = build(ModelConfig(config.arch, config.blocks, config.channels, config.scale, norm="none"))
    with torch.no_grad():
        if isinstance(model, WDSR):
            model.tail.weight.mul_(0.15)  # type: ignore[union-attr, operator]
            model.skip.weight.copy_(upsampling_kernel(config.scale, 5))  # type: ignore[union-attr, operator]
            model.skip.bias.zero_()  # type: ignore[union-attr, operator]
            return model.eval()
        for conv in (model.head, model.body_end, model.tail, *model.upsampler):
            if isinstance(conv, nn.Conv2d):
                conv.weight.mul_(0.15)
                assert conv.bias is not None
                conv.bias.mul_(0.15)
        for conv in (model.head, model.tail):
            for colour in range(3):
                conv.weight[colour, colour, 1, 1] += 1  # type: ignore[index, operator]
        for conv in model.upsampler:
            if isinstance(conv, nn.Conv2d):
                factor = int((conv.out_channels // conv.in_channels) ** 0.5)
                conv.weight[: 3 * factor**2, :3] += upsampling_kernel(factor, 3)
    return model.eval()


@lru_cache
def frames() -> dict[str, Rgb]:
    return {
        "coffee": np.ascontiguousarray(golden_frame()[:36, :40]),
        "chelsea": np.ascontiguousarray(sample_frames()["chelsea.png"][90:122, 100:132]),
    }


@lru_cache
def exported(name: str, io: str = "uint8") -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        export_onnx(picture_model(name), path, io=io)  # type: ignore[arg-type]
        return path.read_bytes()


class Surgery:
    """A graph of ours, opened."""

    def __init__(self, name: str, io: str = "uint8") -> None:
        self.model, self.config = onnx.load_model_from_string(exported(name, io)), picture_model(name).config
        self.uint8 = io == "uint8"
        self.wdsr = self.config.arch != "edsr"
        self.first = ["head", "skip"] if self.wdsr else ["head"]
        self.last = ["tail", "skip"] if self.wdsr else ["tail"]
        self.mean = np.array(self.config.mean) * (255 if self.uint8 else 1)

    def edit(self, name: str, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        (tensor,) = (tensor for tensor in self.model.graph.initializer if tensor.name == name)
        old = numpy_helper.to_array(tensor)
        new = np.ascontiguousarray(change(old.astype(np.float64)).astype(old.dtype))
        assert new.shape == old.shape
        tensor.CopyFrom(numpy_helper.from_array(new, name))

    def colours(self) -> NDArray[np.intp]:
        """Colour of each channel of the last convolutions."""
        squared = self.config.scale**2
        if not self.wdsr:
            return np.arange(3)
        return np.tile(np.arange(3), squared) if self.uint8 else np.repeat(np.arange(3), squared)

    def add_to_output(self, shift: NDArray[np.float64]) -> None:
        self.edit("tail.bias", lambda bias: bias + shift[self.colours()])

    def run(self) -> Upscale:
        session = onnxruntime.InferenceSession(self.model.SerializeToString(), providers=["CPUExecutionProvider"])

        def upscale(frame: Rgb) -> Rgb:
            image: Rgb = session.run(None, {"lr": frame[None]})[0][0]
            return image

        return upscale


def swap_input(s: Surgery) -> None:
    for conv in s.first:
        s.edit(f"{conv}.weight", lambda weight: weight[:, ::-1])
    s.edit("mean", lambda mean: mean[:, ::-1])


def swap_output(s: Surgery) -> None:
    order = np.arange(len(s.colours())).reshape(-1, 3)[:, ::-1].reshape(-1)
    for conv in s.last:
        s.edit(f"{conv}.weight", lambda weight: weight[order])
        s.edit(f"{conv}.bias", lambda bias: bias[order])


def swap_both(s: Surgery) -> None:
    swap_input(s)
    swap_output(s)


def scale_input(factor: float) -> Callable[[Surgery], None]:
    def plant(s: Surgery) -> None:
        s.edit("mean", lambda mean: mean / factor)
        for conv in s.first:
            s.edit(f"{conv}.weight", lambda weight: weight * factor)

    return plant


def unscaled_output(s: Surgery) -> None:
    for conv in s.last:
        half = 0.5 if conv == "tail" else 0.0
        s.edit(f"{conv}.weight", lambda weight: weight / 255)
        s.edit(f"{conv}.bias", lambda bias, half=half: (bias - half) / 255 + half)  # type: ignore[misc]


def times_mean(on_input: float, on_output: float) -> Callable[[Surgery], None]:
    def plant(s: Surgery) -> None:
        s.edit("mean", lambda mean: mean * on_input)
        s.add_to_output(s.mean * on_output)

    return plant


def cut_off(s: Surgery) -> None:
    s.add_to_output(np.full(3, -0.5))


IN_THE_GRAPH: dict[str, Callable[[Surgery], None]] = {
    "red and blue swapped on input": swap_input,
    "red and blue swapped on output": swap_output,
    "red and blue swapped on input and output": swap_both,
    "input in 0-255 where the network takes 0-1": scale_input(255),
    "input divided by 255 twice": scale_input(1 / 255),
    "output left in 0-1, not scaled to 0-255": unscaled_output,
    "mean subtracted twice on input": times_mean(2, 0),
    "mean never subtracted on input": times_mean(0, 0),
    "mean added twice on output": times_mean(1, 1),
    "mean never added on output": times_mean(1, -1),
    "mean applied twice, on input and output": times_mean(2, 1),
    "mean never applied, on input nor output": times_mean(0, -1),
    "output cut off instead of rounded": cut_off,
}
SHUFFLES = {
    "pixel shuffle in (row, column, channel) order, as TensorFlow has it",
    "pixel shuffle with rows and columns swapped",
}
STEPS = {
    "down": (1, 0),
    "up": (-1, 0),
    "right": (0, 1),
    "left": (0, -1),
    "down and right": (1, 1),
    "up and left": (-1, -1),
    "down and left": (1, -1),
    "up and right": (-1, 1),
}


def assert_named(fault: str, parity: Parity) -> None:
    assert not parity.passed
    assert parity.diagnosis.startswith(f"{fault}: "), parity.diagnosis
    assert parity.tried is not None
    assert fault in parity.tried


def shifted(image: Rgb, down: int, right: int) -> Rgb:
    """Moved, with the border repeated, as a wrong alignment does it."""
    height, width = image.shape[:2]
    rows = (np.arange(height) - down).clip(0, height - 1)
    columns = (np.arange(width) - right).clip(0, width - 1)
    return np.ascontiguousarray(image[rows][:, columns])


def test_every_known_fault_is_planted_here() -> None:
    """A new fault needs a new test."""
    by = ("one output pixel", "one input pixel")
    shifts = {f"shifted {direction} by {step}" for direction in STEPS for step in by}
    assert {name for name, _ in faults(picture_model(NAMES[0]))} == set(IN_THE_GRAPH) | SHUFFLES | shifts


@pytest.mark.parametrize("name", NAMES)
def test_the_model_makes_pictures(name: str) -> None:
    """The ground of what follows: close to an enlarged photo, and not the photo alone."""
    from PIL import Image

    frame = frames()["coffee"]
    found = reference(picture_model(name))(frame)
    plain = np.asarray(Image.fromarray(frame).resize(found.shape[1::-1], Image.Resampling.BICUBIC))
    apart = np.abs(found.astype(int) - plain)[8:-8, 8:-8]
    assert 0.5 < apart.mean() < 40


@pytest.mark.parametrize("name", NAMES)
def test_a_correct_export_passes(name: str) -> None:
    parity = check_parity(picture_model(name), Surgery(name).run(), frames(), "fp32")
    assert parity.passed
    assert parity.diagnosis == ""
    assert parity.tried is None
    assert parity.images.keys() == frames().keys()
    assert parity.total.max_levels <= 1
    assert parity.total.psnr_db >= 60


@pytest.mark.parametrize("fault", IN_THE_GRAPH)
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_in_the_graph_is_named(name: str, fault: str) -> None:
    surgery = Surgery(name)
    IN_THE_GRAPH[fault](surgery)
    assert_named(fault, check_parity(picture_model(name), surgery.run(), frames(), "fp32"))


@pytest.mark.parametrize("folded", [False, True], ids=["traced", "deployed"])
@pytest.mark.parametrize("name", NAMES)
def test_a_shuffle_in_tensorflow_order_is_named(name: str, folded: bool, tmp_path: Path) -> None:
    """DepthToSpace in its other mode, what a converter gets wrong: in the graph as traced, and as deployed.

    In the deployed one the mean lies in the tail's biases, before the shuffle, and is scattered along.
    """
    path = tmp_path / "m.onnx"
    if folded:
        path.write_bytes(exported(name, "float32"))
    else:
        ir.save(float_graph(fold(picture_model(name))), path)
    graph = onnx.load(path)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = b"DCR"
    onnx.save(graph, path)
    (parity,) = verify(picture_model(name), path, frames())
    assert_named("pixel shuffle in (row, column, channel) order, as TensorFlow has it", parity)


@pytest.mark.parametrize("name", NAMES)
def test_a_shuffle_with_rows_and_columns_swapped_is_named(name: str, tmp_path: Path) -> None:
    surgery = Surgery(name, "float32")
    nodes = surgery.model.graph.node
    shuffles = [node.input[0] for node in nodes if node.op_type == "DepthToSpace"]
    convs = [node for node in nodes if node.op_type == "Conv" and node.output[0] in shuffles]
    names = surgery.last if surgery.wdsr else [conv.input[1].removesuffix(".weight") for conv in convs]
    assert names
    for conv in names:

        def swap(array: NDArray[np.float64]) -> NDArray[np.float64]:
            factor = surgery.config.scale if surgery.wdsr or surgery.config.scale == 3 else 2
            split = array.reshape(-1, factor, factor, *array.shape[1:])
            return split.swapaxes(1, 2).reshape(array.shape)

        surgery.edit(f"{conv}.weight", swap)
        surgery.edit(f"{conv}.bias", swap)
    onnx.save(surgery.model, tmp_path / "m.onnx")
    (parity,) = verify(picture_model(name), tmp_path / "m.onnx", frames())
    assert_named("pixel shuffle with rows and columns swapped", parity)


@pytest.mark.parametrize("by", ["one output pixel", "one input pixel"])
@pytest.mark.parametrize("direction", STEPS)
@pytest.mark.parametrize("name", ["wdsr-b-1x8-x2"])
def test_a_shift_is_named(name: str, direction: str, by: str) -> None:
    model = picture_model(name)
    graph, (down, right) = Surgery(name).run(), STEPS[direction]
    step = 1 if by == "one output pixel" else model.config.scale
    for move in (
        lambda image: np.roll(image, (down * step, right * step), (0, 1)),
        lambda image: shifted(image, down * step, right * step),
    ):
        parity = check_parity(model, lambda frame, move=move: move(graph(frame)), frames(), "fp32")  # type: ignore[misc]
        assert_named(f"shifted {direction} by {by}", parity)


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_nobody_knows_is_said_to_be_unexplained(name: str) -> None:
    noise = np.random.default_rng(0)

    def noisy(frame: Rgb) -> Rgb:
        image = graph(frame).astype(int)
        return (image + noise.integers(-20, 21, image.shape)).clip(0, 255).astype(np.uint8)

    graph = Surgery(name).run()
    parity = check_parity(picture_model(name), noisy, frames(), "fp32")
    assert not parity.passed
    assert parity.diagnosis.startswith("none of ")


def test_other_weights_are_unexplained() -> None:
    other = reference(picture_model("wdsr-b-1x8-x2", seed=7))
    parity = check_parity(picture_model("wdsr-b-1x8-x2"), other, frames(), "fp32")
    assert not parity.passed
    assert parity.diagnosis.startswith("none of ")


@pytest.mark.parametrize("value", [0, 255, 128])
def test_a_graph_that_makes_nothing_is_unexplained_or_named_without_error(value: int) -> None:
    model = picture_model("wdsr-b-1x8-x2")
    parity = check_parity(
        model, lambda frame: np.full((frame.shape[0] * 2, frame.shape[1] * 2, 3), value, np.uint8), frames(), "fp32"
    )
    assert not parity.passed
    assert parity.diagnosis


# the gates


def nudged(graph: Upscale, share: float, levels: int = 1) -> Upscale:
    """``graph`` with that share of its values moved."""
    draw = np.random.default_rng(0)

    def upscale(frame: Rgb) -> Rgb:
        image = graph(frame)
        chosen = draw.random(image.shape) < share
        return np.where(chosen, np.where(image < 128, image + levels, image - levels), image).astype(np.uint8)

    return upscale


@pytest.mark.parametrize(
    ("share", "levels", "passed"),
    [(0, 1, True), (0.0005, 1, True), (0.002, 1, False), (0.0005, 2, False), (0.5, 1, False), (1, 1, False)],
)
def test_the_fp32_gate(share: float, levels: int, passed: bool) -> None:
    model = picture_model("wdsr-b-1x8-x2")
    parity = check_parity(model, nudged(reference(model), share, levels), frames(), "fp32")
    assert parity.passed is passed
    assert (parity.diagnosis == "") is passed


def test_half_a_level_of_bias_fails() -> None:
    """At most 1 level anywhere and more than 50 dB, yet wrong: the share of values gives it away."""
    surgery = Surgery("wdsr-b-1x8-x2")
    surgery.add_to_output(np.full(3, 0.5))
    parity = check_parity(picture_model("wdsr-b-1x8-x2"), surgery.run(), frames(), "fp32")
    assert not parity.passed
    assert parity.total.max_levels == 1
    assert parity.total.psnr_db > 50
    assert parity.total.share_off > 0.3


def test_one_bad_image_of_many_fails() -> None:
    model = picture_model("wdsr-b-1x8-x2")
    upscale, bad = reference(model), frames()["chelsea"]
    parity = check_parity(
        model, lambda frame: 255 - upscale(frame) if frame is bad else upscale(frame), frames(), "fp32"
    )
    assert not parity.passed
    assert parity.images["coffee"].psnr_db == np.inf
    assert parity.images["chelsea"].max_levels > 100


def test_the_total_is_that_of_all_values() -> None:
    model = picture_model("wdsr-b-1x8-x2")
    upscale, graph = reference(model), nudged(reference(model), 0.3, 2)
    found = {name: graph(frame) for name, frame in frames().items()}
    byte = {frame.tobytes(): found[name] for name, frame in frames().items()}
    parity = check_parity(model, lambda frame: byte[frame.tobytes()], frames(), "fp32")
    apart = np.concatenate([(found[n].astype(float) - upscale(f)).ravel() for n, f in frames().items()])
    assert parity.total.psnr_db == pytest.approx(10 * np.log10(255**2 / np.mean(apart**2)))
    assert parity.total.share_off == pytest.approx(np.mean(apart != 0))
    assert parity.total.max_levels == np.abs(apart).max()


def test_the_fp16_gate() -> None:
    model = picture_model("wdsr-b-1x8-x2")
    assert GATES["fp16"].least_db == 50
    assert check_parity(model, nudged(reference(model), 0.5), frames(), "fp16").passed
    assert not check_parity(model, nudged(reference(model), 0.5, 3), frames(), "fp16").passed


@pytest.mark.parametrize("other", ["wdsr-b-1x8-x3", "edsr-1x8-x4"])
def test_another_scale_is_an_input_error(other: str) -> None:
    with pytest.raises(InputError, match="another model"):
        check_parity(picture_model("wdsr-b-1x8-x2"), reference(picture_model(other)), frames(), "fp32")


def test_no_frames_is_an_input_error() -> None:
    model = picture_model("wdsr-b-1x8-x2")
    with pytest.raises(InputError):
        check_parity(model, reference(model), {}, "fp32")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (9, 9)])
def test_tiny_frames(size: tuple[int, int]) -> None:
    """Compared, and a failure diagnosed, without an error."""
    model = picture_model("wdsr-b-1x8-x2")
    small = {"small": np.ascontiguousarray(golden_frame()[: size[0], : size[1]])}
    assert check_parity(model, reference(model), small, "fp32").passed
    upscale = reference(model)
    assert not check_parity(model, lambda frame: upscale(frame) ^ 64, small, "fp32").passed


# verify


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_verify_takes_either_interface(name: str, io: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(exported(name, io))
    (parity,) = verify(picture_model(name), tmp_path / "m.onnx", frames())
    assert parity.passed


def foreign(inputs: int = 1, outputs: int = 1, op: str = "Identity", **shapes: list[object]) -> onnx.ModelProto:
    lr_shape, sr_shape = shapes.get("lr", ["N", 3, "H", "W"]), shapes.get("sr")
    lrs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, lr_shape) for i in range(inputs)]
    srs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, sr_shape) for i in range(outputs)]
    nodes = [helper.make_node(op, [f"x{min(i, inputs - 1)}"], [f"y{i}"]) for i in range(outputs)]
    graph = helper.make_graph(nodes, "g", lrs, srs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def typed(kind: int) -> onnx.ModelProto:
    model = foreign()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    return model


def strings() -> onnx.ModelProto:
    model = foreign()
    model.graph.node[0].op_type = "Cast"
    model.graph.node[0].attribute.append(helper.make_attribute("to", TensorProto.STRING))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    return model


def sequence() -> onnx.ModelProto:
    model = foreign(op="SequenceConstruct")
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    model.graph.output[0].CopyFrom(helper.make_value_info("y0", helper.make_sequence_type_proto(kind)))
    return model


FOREIGN = {
    "two inputs": foreign(inputs=2),
    "two outputs": foreign(outputs=2),
    "another scale": foreign(),
    "a classifier": foreign(op="Flatten"),
    "a scalar": foreign(op="ReduceMax"),
    "a shape": foreign(op="Size"),
    "channels last": foreign(lr=["N", "H", "W", 3]),
    "fixed size": foreign(lr=[1, 3, 4, 4]),
    "float16": typed(TensorProto.FLOAT16),
    "int64": typed(TensorProto.INT64),
    "strings": strings(),
    "a sequence": sequence(),
}
FOREIGN["a shape"].graph.output[0].type.tensor_type.elem_type = TensorProto.INT64


@pytest.mark.parametrize("model", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused_in_one_line(model: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError) as caught:
        verify(picture_model("wdsr-b-1x8-x2"), tmp_path / "m.onnx", frames())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\0" * 1000, b"PK\x03\x04", exported(NAMES[0])[:-1000]])
def test_garbage_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError) as caught:
        verify(picture_model("wdsr-b-1x8-x2"), tmp_path / "m.onnx", frames())
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_no_graph(tmp_path: Path) -> None:
    save_checkpoint(picture_model("wdsr-b-1x8-x2"), tmp_path / "m.safetensors")
    with pytest.raises(InputError):
        verify(picture_model("wdsr-b-1x8-x2"), tmp_path / "m.safetensors", frames())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("parity") / "bundle"
    deploy(picture_model("wdsr-b-1x8-x2"), path, frames(), sizes=[(8, 8)], seconds=0)
    yield path
    shutil.rmtree(path)


def test_verify_a_bundle(bundle: Path) -> None:
    found = verify(picture_model("wdsr-b-1x8-x2"), bundle, frames())
    assert [(parity.graph, parity.engine, parity.passed) for parity in found] == [
        (graph, engine, True) for graph in ("fp32", "fp16") for engine in installed()
    ]
    with pytest.raises(InputError, match="another model"):
        verify(picture_model("wdsr-b-1x8-x3"), bundle, frames())
    found = verify(picture_model("wdsr-b-1x8-x2", seed=3), bundle, frames())
    assert not any(parity.passed for parity in found)


def test_verify_on_a_grey_photo(bundle: Path) -> None:
    """The network's own colours are compared, not what a SuperResolver makes of grey."""
    grey = {name: np.repeat(frame[..., 1:2], 3, 2) for name, frame in frames().items()}
    assert all(parity.passed for parity in verify(picture_model("wdsr-b-1x8-x2"), bundle, grey))


def test_verify_an_int8_graph_of_which_nothing_is_recorded(bundle: Path, tmp_path: Path) -> None:
    files = {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*.*") if p.name != "manifest.json"}
    files["int8.onnx"] = files["fp32.onnx"]
    write_bundle(tmp_path / "b", picture_model("wdsr-b-1x8-x2").config, files, {})
    with pytest.raises(BundleError, match="records no golden_db of int8: calibrate the model again"):
        verify(picture_model("wdsr-b-1x8-x2"), tmp_path / "b", frames())


def test_verify_a_bundle_without_graphs(bundle: Path, tmp_path: Path) -> None:
    weights = {"weights.safetensors": (bundle / "weights.safetensors").read_bytes()}
    write_bundle(tmp_path / "b", picture_model("wdsr-b-1x8-x2").config, weights, {})
    with pytest.raises(InputError, match="holds no graph to verify"):
        verify(picture_model("wdsr-b-1x8-x2"), tmp_path / "b", frames())


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", ""])
def test_verify_nothing(name: str) -> None:
    with pytest.raises((InputError, BundleError)):
        verify(picture_model("wdsr-b-1x8-x2"), name, frames())


@pytest.mark.parametrize(("noise", "named"), [(1, True), (6, False)])
def test_a_fault_is_named_only_where_it_is_certain(noise: int, named: bool) -> None:
    """With a little noise on top the reference with the fault agrees to 50 dB, with more to 34 dB: no longer proof."""
    model = picture_model(NAMES[0])
    upscale = reference(model)
    rng = np.random.default_rng(0)

    def graph(frame: Rgb) -> Rgb:
        swapped = upscale(np.ascontiguousarray(frame[..., ::-1])).astype(int)
        return (swapped + rng.integers(-noise, noise + 1, swapped.shape)).clip(0, 255).astype(np.uint8)

    parity = check_parity(model, graph, frames(), "fp32")
    assert parity.diagnosis.startswith("red and blue swapped on input: ") == named
    assert parity.diagnosis.startswith("none of ") != named
