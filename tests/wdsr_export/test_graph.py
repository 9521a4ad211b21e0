"""``export_onnx`` against the PyTorch reference, and what a deploy graph must look like."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from wdsr_edge import ExportError, InputError
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.metrics import difference
from wdsr_edge.models import EDSR, WDSR, ModelConfig, build, fold, reference
from wdsr_export import export_onnx, onnx_file
from wdsr_export.graph import weights_hash

Rgb = NDArray[np.uint8]

CONFIGS = {
    **{
        f"{arch}-x{scale}": ModelConfig(arch, 2, 8, scale)  # type: ignore[arg-type]
        for arch in ("edsr", "wdsr-a", "wdsr-b")
        for scale in (2, 3, 4)
    },
    "odd channels a": ModelConfig("wdsr-a", 1, 7, 3),
    "odd channels b": ModelConfig("wdsr-b", 2, 11, 2, expansion=3, low_rank=0.5),
    "odd channels edsr": ModelConfig("edsr", 1, 5, 3),
    "one channel": ModelConfig("wdsr-b", 1, 1, 4, low_rank=1.0),
    "group a": ModelConfig("wdsr-a", 1, 12, 2, expansion_conv="group"),
    "group b": ModelConfig("wdsr-b", 1, 12, 3, expansion_conv="group"),
    "depthwise a": ModelConfig("wdsr-a", 1, 6, 2, expansion_conv="depthwise"),
    "depthwise b": ModelConfig("wdsr-b", 1, 6, 4, expansion_conv="depthwise"),
    "depthwise edsr": ModelConfig("edsr", 1, 6, 4, expansion_conv="depthwise"),
    "batch norm": ModelConfig("wdsr-b", 2, 8, 2, norm="batch"),
    "batch norm edsr": ModelConfig("edsr", 2, 8, 2, norm="batch"),
    "no norm": ModelConfig("wdsr-a", 2, 8, 2, norm="none"),
    "res_scale": ModelConfig("edsr", 2, 8, 4, res_scale=0.1),
    "other mean and std": ModelConfig("wdsr-b", 2, 8, 2, mean=(0.1, 0.5, 0.9), std=0.25),
    "mean 0 std 1": ModelConfig("wdsr-b", 2, 8, 3, mean=(0.0, 0.0, 0.0), std=1.0),
}


def random_model(config: ModelConfig, seed: int = 0) -> EDSR | WDSR:
    """Random, with batch statistics and biases that are not the neutral ones, and a picture-like range of output."""
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model.eval()


def small_model() -> EDSR | WDSR:
    return random_model(ModelConfig("wdsr-b", 1, 8, 2))


def crops() -> list[Rgb]:
    """Odd sizes from each photo, at places with texture."""
    photos = list(sample_frames().values())
    return [
        np.ascontiguousarray(photo[100 : 100 + height, 150 : 150 + width])
        for photo, (height, width) in zip(photos, ((61, 83), (80, 48), (33, 97)), strict=True)
    ]


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, batch: NDArray[np.generic]) -> NDArray[np.generic]:
    result: NDArray[np.generic] = session.run(["sr"], {"lr": batch})[0]
    return result


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_uint8_graph_equals_the_reference(config: ModelConfig, tmp_path: Path) -> None:
    model = random_model(config)
    export_onnx(model, tmp_path / "m.onnx")
    session = open_graph(tmp_path / "m.onnx")
    upscale = reference(model)
    for frame in crops():
        found, expected = run(session, frame[None])[0], upscale(frame)
        assert found.dtype == np.uint8
        assert found.std() > 1  # a constant picture would prove little
        _, levels, share = difference(found, expected)
        assert levels <= 1
        assert share < 0.001


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_float_graph_equals_pytorch(config: ModelConfig, tmp_path: Path) -> None:
    model = random_model(config)
    export_onnx(model, tmp_path / "m.onnx", io="float32")
    session = open_graph(tmp_path / "m.onnx")
    x = torch.from_numpy(crops()[0].transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.inference_mode():
        expected = model(x).numpy()
    found = run(session, x.numpy())
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


def test_the_float_graph_does_not_clip(tmp_path: Path) -> None:
    model = small_model()
    export_onnx(model, tmp_path / "m.onnx", io="float32")
    x = np.random.default_rng(0).normal(0, 20, (1, 3, 16, 16)).astype(np.float32)
    found = run(open_graph(tmp_path / "m.onnx"), x)
    assert found.min() < 0
    assert found.max() > 1
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["edsr", "wdsr-a", "wdsr-b"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("n", "h", "w"), [(1, 1, 1), (2, 5, 9), (3, 1, 7), (1, 40, 2)])
def test_batch_height_and_width_are_dynamic(arch: str, scale: int, n: int, h: int, w: int, tmp_path: Path) -> None:
    model = random_model(ModelConfig(arch, 1, 4, scale, low_rank=1.0))  # type: ignore[arg-type]
    export_onnx(model, tmp_path / "m.onnx")
    export_onnx(model, tmp_path / "f.onnx", io="float32")
    batch = np.random.default_rng(n).integers(0, 256, (n, h, w, 3), np.uint8)
    found = run(open_graph(tmp_path / "m.onnx"), batch)
    assert found.shape == (n, h * scale, w * scale, 3)
    upscale = reference(model)
    for i in range(n):
        assert np.abs(found[i].astype(int) - upscale(batch[i])).max() <= 1
    planar = run(open_graph(tmp_path / "f.onnx"), batch.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    assert planar.shape == (n, 3, h * scale, w * scale)


@pytest.mark.parametrize("value", [0, 255])
def test_saturated_frames_stay_in_range(value: int, tmp_path: Path) -> None:
    """What leaves [0, 255] is clipped, not wrapped round."""
    model = small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    export_onnx(model, tmp_path / "m.onnx")
    frame = np.full((20, 20, 3), value, np.uint8)
    frame[5:15, 5:15] = 255 - value
    expected = reference(model)(frame)
    assert (expected == 0).any()
    assert (expected == 255).any()
    assert np.abs(run(open_graph(tmp_path / "m.onnx"), frame[None])[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("arch", ["edsr", "wdsr-b"])
def test_a_static_size(arch: str, io: str, tmp_path: Path) -> None:
    model = random_model(ModelConfig(arch, 1, 4, 3, low_rank=1.0))  # type: ignore[arg-type]
    export_onnx(model, tmp_path / "m.onnx", io=io, size=(17, 23))  # type: ignore[arg-type]
    session = open_graph(tmp_path / "m.onnx")
    (lr,), (sr,) = session.get_inputs(), session.get_outputs()
    if io == "uint8":
        assert (lr.shape, sr.shape) == ([1, 17, 23, 3], [1, 51, 69, 3])
        frame = crops()[0][:17, :23]
        assert np.abs(run(session, frame[None])[0].astype(int) - reference(model)(frame)).max() <= 1
    else:
        assert (lr.shape, sr.shape) == ([1, 3, 17, 23], [1, 3, 51, 69])
        assert run(session, np.zeros((1, 3, 17, 23), np.float32)).shape == (1, 3, 51, 69)
    with pytest.raises(Exception, match=r"[Dd]imension"):
        session.run(None, {"lr": np.zeros([d + 1 for d in lr.shape], np.uint8 if io == "uint8" else np.float32)})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_deploy_graph_is_what_the_contract_says(config: ModelConfig, tmp_path: Path) -> None:
    export_onnx(random_model(config), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
    assert model.ir_version == 9
    assert not model.functions
    session, s = open_graph(tmp_path / "m.onnx"), config.scale
    (lr,), (sr,) = session.get_inputs(), session.get_outputs()
    assert (lr.name, lr.type, lr.shape) == ("lr", "tensor(uint8)", ["N", "H", "W", 3])
    assert (sr.name, sr.type, sr.shape) == ("sr", "tensor(uint8)", ["N", f"{s}*H", f"{s}*W", 3])
    nodes = model.graph.node
    assert nodes[0].op_type == nodes[-1].op_type == "Cast"
    assert list(nodes[0].input) == ["lr"]
    assert list(nodes[-1].output) == ["sr"]
    assert [value for node in nodes for value in node.input if value == "lr"] == ["lr"]
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    uint8 = [v.name for v in typed.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.UINT8]
    assert uint8 == []
    assert all(tensor.data_type != onnx.TensorProto.UINT8 for tensor in model.graph.initializer)
    ops = Counter(node.op_type for node in nodes)
    assert ops["Cast"] == 2
    assert ops["Conv"] == len(config.convs)
    assert ops["Relu"] == config.blocks
    assert len(nodes) - ops["Conv"] - ops["Relu"] - config.blocks <= 12
    assert ops["BatchNormalization"] == ops["Div"] == 0
    used = {value for node in nodes for value in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_float_graph_is_lean(config: ModelConfig, tmp_path: Path) -> None:
    export_onnx(random_model(config), tmp_path / "m.onnx", io="float32")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 9
    ops = Counter(node.op_type for node in model.graph.node)
    assert ops["Cast"] == ops["Div"] == ops["Mul"] == ops["Clip"] == 0
    assert ops["Sub"] <= 1
    assert ops["Add"] == config.blocks + 1


def metadata(path: Path) -> dict[str, object]:
    found = onnx.load(path).metadata_props
    assert all(entry.key.startswith("wdsr_edge.") for entry in found)
    return {entry.key.removeprefix("wdsr_edge."): json.loads(entry.value) for entry in found}


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("name", ["edsr-x3", "wdsr-a-x2", "depthwise b", "batch norm"])
def test_metadata_holds_the_contract(name: str, io: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    model = random_model(config)
    export_onnx(model, tmp_path / "m.onnx", io=io)  # type: ignore[arg-type]
    found = metadata(tmp_path / "m.onnx")
    stated = ModelConfig.from_dict(found["config"])
    assert (stated.name, stated.halo) == (config.name, config.halo)
    assert (stated.mean, stated.std) == (config.mean, config.std)
    assert (found["scale"], found["halo"]) == (config.scale, config.halo)
    assert (found["color_order"], found["io"], found["precision"]) == ("rgb", io, "fp32")
    assert found["weights_sha256"] == weights_hash(fold(model))
    assert set(found["versions"]) == {"wdsr-edge", "torch", "onnx"}  # type: ignore[arg-type, call-overload]


@pytest.mark.parametrize("name", ["wdsr-b-x2", "batch norm", "res_scale"])
def test_the_stated_config_is_that_of_the_bundle(name: str, tmp_path: Path) -> None:
    """deploy writes ``model.config`` into the manifest; a bundle is refused unless the graph says the same."""
    model = random_model(CONFIGS[name])
    export_onnx(model, tmp_path / "m.onnx")
    assert ModelConfig.from_dict(metadata(tmp_path / "m.onnx")["config"]) == model.config


def test_the_weights_hash_changes_with_every_weight_and_only_then(tmp_path: Path) -> None:
    config = ModelConfig("wdsr-b", 1, 4, 2, low_rank=1.0)
    plain = fold(random_model(config))
    first = weights_hash(plain)
    assert weights_hash(fold(plain)) == first
    seen = {first}
    for parameter in plain.parameters():
        flat = parameter.view(-1)
        kept = float(flat[-1])
        flat[-1] += 1e-5
        seen.add(weights_hash(plain))
        flat[-1] = kept
    assert len(seen) == 1 + len(list(plain.parameters()))
    assert weights_hash(plain) == first


def test_norm_folding_keeps_the_weights_hash(tmp_path: Path) -> None:
    model = random_model(ModelConfig("wdsr-b", 1, 8, 2))
    folded = fold(model)
    export_onnx(model, tmp_path / "normed.onnx")
    export_onnx(folded, tmp_path / "folded.onnx")
    hashes = [metadata(tmp_path / name)["weights_sha256"] for name in ("normed.onnx", "folded.onnx")]
    assert hashes[0] == hashes[1]
    other = random_model(model.config, seed=1)
    export_onnx(other, tmp_path / "other.onnx")
    assert metadata(tmp_path / "other.onnx")["weights_sha256"] != hashes[0]


@pytest.mark.parametrize("io", ["uint8", "float32"])
def test_the_same_model_gives_the_same_bytes(io: str, tmp_path: Path) -> None:
    model = small_model()
    for name in ("a.onnx", "b.onnx"):
        export_onnx(model, tmp_path / name, io=io)  # type: ignore[arg-type]
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_export_only_reads_the_model(tmp_path: Path) -> None:
    model = random_model(CONFIGS["batch norm"]).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx")
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_export_returns_what_each_pass_saved(tmp_path: Path) -> None:
    savings = export_onnx(small_model(), tmp_path / "m.onnx")
    assert [saving.name for saving in savings] == [
        "uint8_io",
        "fold_input_affine",
        "fold_output_affine",
        "pad_channels",
        "shuffle_in_nhwc",
    ]
    assert all(saving.detail for saving in savings)


def test_export_makes_parents_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "m.onnx"
    export_onnx(small_model(), path)
    first = path.read_bytes()
    export_onnx(random_model(ModelConfig("wdsr-b", 1, 8, 2), seed=5), str(path))
    assert path.read_bytes() != first
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("old", [None, b"the old file"])
def test_a_failed_export_leaves_the_old_file_or_none(
    old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    if old is not None:
        path.write_bytes(old)

    def refuse(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("planted")

    monkeypatch.setattr(onnx_file.onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError):
        export_onnx(small_model(), path)
    monkeypatch.undo()

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space"):
        export_onnx(small_model(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if old is None else ["m.onnx"])
    assert old is None or path.read_bytes() == old


def unfoldable() -> dict[str, nn.Module]:
    foreign = small_model()
    foreign.body.append(nn.Sigmoid())
    hooked = small_model()
    hooked.head.register_forward_hook(lambda *_: None)
    strided = small_model()
    next(module for module in strided.modules() if isinstance(module, nn.Conv2d)).stride = (2, 2)
    broken = random_model(ModelConfig("edsr", 1, 4, 2))
    with torch.no_grad():
        next(broken.parameters()).view(-1)[0] = torch.nan
    return {
        "another network": nn.Conv2d(3, 3, 3),
        "layer": foreign,
        "hook": hooked,
        "stride": strided,
        "nan": broken,
    }


@pytest.mark.parametrize("model", unfoldable().values(), ids=unfoldable())
def test_an_unfoldable_model_is_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        export_onnx(model, tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, "wdsr_calibration.calibrate"),
        ({"precision": "double"}, "fp32, fp16, int8"),
        ({"io": "float16"}, "uint8 or float32"),
        ({"io": None}, "uint8 or float32"),
    ],
)
def test_options_are_refused(options: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        export_onnx(small_model(), tmp_path / "m.onnx", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(0, 8), (-4, 8)])
def test_a_bad_size_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        export_onnx(small_model(), tmp_path / "m.onnx", size=size)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError):
        export_onnx(small_model(), tmp_path / "file" / "m.onnx")


def test_a_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(InputError):
        export_onnx(small_model(), tmp_path / "m.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]
