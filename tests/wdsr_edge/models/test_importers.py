"""State dicts of other projects, from networks built here in those projects' own arithmetic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.foreign import NORMS, Edsr, ntire, trained, ychfan
from wdsr_edge import CheckpointError, InputError
from wdsr_edge.models import fold, import_weights, load_checkpoint, save_checkpoint
from wdsr_edge.models.importers import import_model
from wdsr_edge.models.reference import to_tensor
from wdsr_edge.samples import golden_frame, sample_frames
from wdsr_export import check_parity, export_onnx

CROP = to_tensor(sample_frames()["chelsea.png"][None, 100:124, 120:150])


def same(path: Path, model: nn.Module, accuracy: float = 1e-5, **numbers: Any) -> Any:
    """The file becomes a network equal to ``model``; returns what is known of it."""
    found = import_model(path, **numbers)
    with torch.no_grad():
        torch.testing.assert_close(found.model(CROP), model(CROP), rtol=0, atol=accuracy)
    assert not found.model.training
    assert all(parameter.requires_grad for parameter in found.model.parameters())
    return found


# Layouts and names


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("arch", ["wdsr-a", "wdsr-b"])
def test_ntire2018(tmp_path: Path, arch: str, norm: str) -> None:
    model = ntire(norm, arch)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = same(tmp_path / "model.pt", model)
    assert (found.model.config.name, found.model.config.expansion) == (f"{arch}-2x8-x2", 3)
    assert found.model.config.norm == ("none" if norm == "plain" else "weight")
    assert found.origin == "JiahuiYu/wdsr_ntire2018"
    assert (found.notes, found.given) == ((), frozenset())


@pytest.mark.parametrize("norm", NORMS)
def test_ychfan(tmp_path: Path, norm: str) -> None:
    model = ychfan(norm)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = same(tmp_path / "model.pt", model)
    assert found.model.config.name == "wdsr-a-2x8-x2"
    assert (found.model.config.mean, found.model.config.std) == ((0.5, 0.5, 0.5), 1)
    assert found.origin == "ychfan/wdsr"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsr_pytorch(tmp_path: Path, scale: int) -> None:
    model = trained(Edsr(scale=scale))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = same(tmp_path / "model.pt", model, 1e-4)
    assert found.model.config.name == f"edsr-2x8-x{scale}"
    assert found.notes == ("left out, as no weights: sub_mean.weight, add_mean.weight",)


def test_another_order_of_normalisation_would_be_seen(tmp_path: Path) -> None:
    """So that the comparisons above can fail."""
    model = ychfan()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    wrong = import_weights(tmp_path / "model.pt", mean=(0.4488, 0.4371, 0.4040))
    with torch.no_grad():
        assert (wrong(CROP) - model(CROP)).abs().max() > 0.01


def test_g_and_v_are_kept_as_they_are(tmp_path: Path) -> None:
    model = ntire()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = import_weights(tmp_path / "model.pt")
    state = model.state_dict()
    for ours, theirs in (("head", "head.0"), ("body.1.branch.2", "body.1.body.2"), ("tail", "tail.0")):
        g, v = found.get_submodule(f"{ours}.parametrizations.weight").parameters()
        assert torch.equal(g, state[f"{theirs}.weight_g"])
        assert torch.equal(v, state[f"{theirs}.weight_v"])


@given(
    arch=st.sampled_from(["wdsr-a", "wdsr-b", "ychfan"]),
    blocks=st.integers(1, 11),
    c=st.sampled_from([1, 3, 4, 12]),
    expansion=st.integers(1, 3),
    low=st.floats(0, 1),
    scale=st.sampled_from([2, 3, 4]),
    norm=st.sampled_from(sorted(NORMS)),
    change=st.sampled_from(["none", "prefix", "text order", "skip first", "safetensors"]),
)
@settings(max_examples=60)
def test_whatever_the_size_and_the_order(
    tmp_path_factory: pytest.TempPathFactory,
    arch: str,
    blocks: int,
    c: int,
    expansion: int,
    low: float,
    scale: int,
    norm: str,
    change: str,
) -> None:
    like_the_head = c <= 3 or (arch == "wdsr-b" and int(low * c) == 3)  # a convolution of a block
    assume(not like_the_head or change not in ("text order", "safetensors"))
    size = {"c": c, "wide": c * expansion, "blocks": blocks, "scale": scale}
    if arch == "wdsr-b":
        size["low"] = max(1, int(low * c))
    model = ychfan(norm, **size) if arch == "ychfan" else ntire(norm, arch, **size)
    state = model.state_dict()
    if change == "prefix":
        state = OrderedDict((f"net.module.{name}", tensor) for name, tensor in state.items())
    elif change == "text order":
        state = OrderedDict(sorted(state.items()))
    elif change == "skip first":
        state = OrderedDict(sorted(state.items(), key=lambda item: not item[0].startswith("skip")))
    path = tmp_path_factory.mktemp("any") / "model"
    if change == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    found = same(path, model, 1e-4)
    assert found.model.config.name == f"{'wdsr-a' if arch == 'ychfan' else arch}-{blocks}x{c}-x{scale}"
    assert found.origin == ("ychfan/wdsr" if arch == "ychfan" else "JiahuiYu/wdsr_ntire2018")


@pytest.mark.parametrize("kind", ["torch", "safetensors", "safetensors, flat names"])
def test_the_tenth_block_comes_after_the_second(tmp_path: Path, kind: str) -> None:
    """Though not in a file that is sorted as text; all blocks have the same shapes, so that nothing else shows it."""
    model = ntire("plain", blocks=12, c=4, wide=8, low=3)
    state = dict(sorted(model.state_dict().items()))
    if "flat" in kind:
        state = {name.replace("body.", "body", 1): tensor for name, tensor in state.items()}
    if kind == "torch":
        torch.save(state, tmp_path / "model")
    else:
        save_file(state, tmp_path / "model")
    same(tmp_path / "model", model)


def test_the_head_behind_convolutions_that_could_be_it(tmp_path: Path) -> None:
    model = ntire("plain", "wdsr-a", c=12, wide=24, groups=4)
    save_file(model.state_dict(), tmp_path / "model")
    assert same(tmp_path / "model", model).model.config.expansion_conv == "group"


@pytest.mark.parametrize(("groups", "kind"), [(4, "group"), (8, "depthwise")])
@pytest.mark.parametrize("arch", ["wdsr-a", "wdsr-b"])
def test_grouped_expansions(tmp_path: Path, arch: str, groups: int, kind: str) -> None:
    model = ntire(arch=arch, groups=groups)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert same(tmp_path / "model.pt", model).model.config.expansion_conv == kind


def test_numbers_that_the_file_does_not_hold(tmp_path: Path) -> None:
    model = ntire(factor=0.25)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = same(tmp_path / "model.pt", model, res_scale=0.25)
    assert found.given == {"res_scale"}
    config = import_weights(tmp_path / "model.pt", mean=[0.1, 0.2, 0.3], std=0.7).config
    assert (config.mean, config.std, config.res_scale) == ((0.1, 0.2, 0.3), 0.7, 1)
    wrongs: list[dict[str, Any]] = [{"mean": (0.1, 0.2)}, {"mean": (114, 111, 103)}, {"std": 0}, {"res_scale": 1e9}]
    for wrong in wrongs:
        with pytest.raises(InputError, match=next(iter(wrong))):
            import_weights(tmp_path / "model.pt", **wrong)


def test_numbers_out_of_range_are_refused_before_the_file_is_read() -> None:
    with pytest.raises(InputError, match="std"):
        import_weights("missing.pt", std=0)


@pytest.mark.parametrize("names", ["0 1 2 3", "ends.0 blocks ends.1 skip"])
def test_modules_of_other_names_take_the_papers_normalisation(tmp_path: Path, names: str) -> None:
    model = ntire()
    named = dict(zip(("head", "body", "tail", "skip"), names.split(), strict=True))
    state = {f"{named[name[:4]]}{name[4:]}": tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    assert same(tmp_path / "model.pt", model).origin.startswith("unknown")


# What is around and beside the weights


def wrappings() -> dict[str, Any]:
    """Weights of ``ntire()`` as training programs write them."""
    model = ntire()
    state = OrderedDict((name, tensor.clone()) for name, tensor in model.state_dict().items())
    optimizer = torch.optim.Adam(model.parameters())
    model(CROP).mean().backward()
    optimizer.step()
    other = {name: torch.full_like(tensor, 0.5) for name, tensor in state.items()}
    return {
        "trainer": {"epoch": 3, "optimizer_state_dict": optimizer.state_dict(), "model_state_dict": state, 7: None},
        "basicsr, averaged": {"params": other, "params_ema": state},
        "two levels": {"checkpoint": {"net": {f"module.{name}": tensor for name, tensor in state.items()}}},
        "lightning": {"state_dict": {"loss.vgg.weight": torch.ones(4, 9, 3, 3), **under("model", state)}},
        "averaged beside": {"state_dict": {**under("model", other), **under("model_ema", state)}},
        "averaged model": {"n_averaged": torch.tensor(4), **under("module", state)},
        "buffers": {**state, "rgb_mean": torch.zeros(1, 3, 1, 1), "shift.mean": torch.zeros(3)},
    }


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapping", wrappings())
def test_wrapped(tmp_path: Path, wrapping: str, zipped: bool) -> None:
    torch.save(wrappings()[wrapping], tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    found = same(tmp_path / "model.pt", ntire())
    expected = {
        "trainer": "took the weights under model_state_dict",
        "basicsr, averaged": "took the weights under params_ema",
        "two levels": "took the weights under checkpoint.net",
        "lightning": "took the weights under state_dict.model",
        "averaged beside": "took the weights under state_dict.model_ema",
        "averaged model": "left out, as no weights: n_averaged",
        "buffers": "left out, as no weights: rgb_mean, shift.mean",
    }
    assert found.notes == (expected[wrapping],)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors"])
def test_other_floats_become_float32(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    model = ntire("plain").to(dtype)
    if kind == "safetensors":
        save_file(model.state_dict(), tmp_path / "model")
    else:
        torch.save(model.state_dict(), tmp_path / "model", _use_new_zipfile_serialization=kind == "torch")
    found = same(tmp_path / "model", model.float())
    assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}


def test_missing_biases_are_zero_and_said(tmp_path: Path) -> None:
    model: Any = ntire()
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in ("head.0.bias", "skip.0.bias")}
    torch.save(state, tmp_path / "model.pt")
    for layer in (model.head[0], model.skip[0]):
        layer.bias.data.zero_()
    found = same(tmp_path / "model.pt", model)
    assert found.notes == ("without a bias in the file, so zero: head.0.weight_v, skip.0.weight_v",)


def test_a_norm_on_some_convolutions_is_folded_and_said(tmp_path: Path) -> None:
    model: Any = ntire()
    torch.nn.utils.remove_weight_norm(model.head[0])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = same(tmp_path / "model.pt", model)
    assert found.model.config.norm == "none"
    assert found.notes[0].startswith("weight norm folded, as not every convolution has it: body.0.body.0.weight_v")


def test_views_of_one_buffer_become_tensors_of_their_own(tmp_path: Path) -> None:
    model = ntire("plain")
    state = model.state_dict()
    buffer = torch.cat([tensor.flatten() for tensor in state.values()])
    pieces = torch.split(buffer, [tensor.numel() for tensor in state.values()])
    views = {name: piece.view(tensor.shape) for (name, tensor), piece in zip(state.items(), pieces, strict=True)}
    torch.save(views, tmp_path / "model.pt")
    found = same(tmp_path / "model.pt", model)
    assert len({parameter.untyped_storage().data_ptr() for parameter in found.model.parameters()}) == len(state)


@pytest.mark.parametrize("length", [0x380, 0x4B50])
def test_safetensors_whose_first_bytes_are_those_of_a_pickle_or_a_zip_file(tmp_path: Path, length: int) -> None:
    model = ntire("plain", "wdsr-a", blocks=1)
    save_file(model.state_dict(), tmp_path / "model.pt", {"note": ""})
    short = int.from_bytes((tmp_path / "model.pt").read_bytes()[:8], "little")
    save_file(model.state_dict(), tmp_path / "model.pt", {"note": " " * (length - short)})
    assert (tmp_path / "model.pt").read_bytes().startswith((b"\x80\x03", b"PK"))
    same(tmp_path / "model.pt", model)


def test_importing_draws_no_random_numbers(tmp_path: Path) -> None:
    torch.save(ntire().state_dict(), tmp_path / "model.pt")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    import_weights(tmp_path / "model.pt")
    assert torch.equal(torch.rand(3), expected)


# What follows


@pytest.mark.parametrize("make", [ntire, ychfan])
def test_an_imported_network_trains_saves_folds_and_exports(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    torch.save(make().state_dict(), tmp_path / "model.pt")
    model = import_weights(str(tmp_path / "model.pt"))
    save_checkpoint(model, tmp_path / "ours.safetensors")
    again = load_checkpoint(tmp_path / "ours.safetensors")
    assert again.config == model.config
    export_onnx(fold(again), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    frames = {"coffee": golden_frame()[:36, :40].copy()}
    parity = check_parity(model, lambda frame: session.run(None, {"lr": frame[None]})[0][0], frames, "fp32")
    assert parity.passed, parity
    model.train()(CROP).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(CheckpointError, match="a wdsr-edge checkpoint already"):
        import_weights(tmp_path / "ours.safetensors")
