"""State dicts of other projects, from networks built here in those projects' own arithmetic."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.foreign import NORMS, Edsr, ntire, trained, ychfan
from wdsr_edge import CheckpointError, InputError
from wdsr_edge.images.samples import golden_frame, sample_frames
from wdsr_edge.models import fold, import_weights, load_checkpoint, save_checkpoint
from wdsr_edge.models.importers import import_model
from wdsr_edge.models.reference import to_tensor
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
        "basicsr, averaged": "took the weights under params_ema, not those under params",
        "two levels": "took the weights under checkpoint.net",
        "lightning": "took the weights under state_dict.model",
        "averaged beside": "took the weights under state_dict.model_ema, not those under state_dict.model",
        "averaged model": "left out, as no weights: n_averaged",
        "buffers": "left out, as no weights: rgb_mean, shift.mean",
    }
    assert found.notes == (expected[wrapping],)


AVERAGED = [
    *("params_ema", "ema", "model_ema", "ema_state_dict", "ema_model", "EMA", "G_ema", "modelEma", "net.module.ema"),
    *("swa", "swa_model", "averaged", "averaged_model", "avg", "moving_average", "shadow", "shadow_params", "polyak"),
]


@pytest.mark.parametrize("name", AVERAGED)
@pytest.mark.parametrize("kind", ["nested", "flat", "safetensors"])
def test_averaged_weights_under_their_usual_names(tmp_path: Path, kind: str, name: str) -> None:
    """Whatever the container, and whichever comes first in it."""
    state = ntire("plain").state_dict()
    worse = {key: 1.3 * tensor for key, tensor in state.items()}
    if kind == "nested":
        torch.save({"weights": worse, name: state}, tmp_path / "model")
    else:
        flat = {**under("weights", worse), **under(name, state)}
        (save_file if kind == "safetensors" else torch.save)(flat, tmp_path / "model")
    assert same(tmp_path / "model", ntire("plain")).notes == (
        f"took the weights under {name}, not those under weights",
    )


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_averaged_weights_below_a_common_prefix(tmp_path: Path, kind: str) -> None:
    state = ntire("plain").state_dict()
    worse = {key: 1.3 * tensor for key, tensor in state.items()}
    both = under("module", {**under("model", worse), **under("ema_model", state)})
    (save_file if kind == "safetensors" else torch.save)(both, tmp_path / "model")
    found = same(tmp_path / "model", ntire("plain"))
    assert found.notes == ("took the weights under module.ema_model, not those under module.model",)


def test_sums_of_an_optimiser_are_not_averaged_weights(tmp_path: Path) -> None:
    state = ntire("plain").state_dict()
    sums = {key: tensor.square() for key, tensor in state.items()}
    torch.save({"exp_avg": sums, "optimizer": {"ema": sums}, "model": state}, tmp_path / "model")
    assert same(tmp_path / "model", ntire("plain")).notes == ("took the weights under model",)


def test_averages_that_cannot_be_taken_are_named(tmp_path: Path) -> None:
    """torch_ema keeps a list without names, latent diffusion's averages have names without dots."""
    state = ntire("plain").state_dict()
    torch.save({"model": state, "ema": {"decay": 0.9, "shadow_params": list(state.values())}}, tmp_path / "list")
    assert same(tmp_path / "list", ntire("plain")).notes == (
        "took the weights under model",
        "averaged weights under ema.shadow_params have no names, and were not taken",
    )
    glued = {key.removesuffix(".weight").replace(".", ""): 1.3 * tensor for key, tensor in state.items()}
    torch.save({"model": state, "model_ema": glued}, tmp_path / "glued")
    assert same(tmp_path / "glued", ntire("plain")).notes == (
        "took the weights under model, not those under model_ema",
    )


# Numbers of NumPy


def numbers() -> dict[str, Any]:
    return {
        "epoch": np.int64(3),
        "best_psnr": np.mean([33.1, 34.2]),
        "half": np.float16(1.5),
        "done": np.bool_(True),
        "history": {"loss": np.linspace(0, 1, 7), "psnr": [np.float32(30), np.float64(31)]},
        "table": np.asfortranarray(np.arange(12, dtype=">i4").reshape(3, 4)),
        "random": np.random.default_rng(0).bit_generator.state,
        "legacy random": np.random.RandomState(0).get_state(),
        "names": np.array(["a", "bc"]),
        "anything": np.array([None, {"a": 1}], dtype=object),
        "dtype": np.dtype("float32"),
        "records": np.zeros(2, dtype=[("x", "f4"), ("y", "i8")]),
        "when": np.datetime64("2024-01-01"),
        "counts": Counter("aab"),
        "by name": defaultdict(list, {"a": [np.float64(1)]}),
        "ordered": OrderedDict(a=np.uint8(1)),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", numbers())
def test_numbers_of_numpy_beside_the_weights(tmp_path: Path, name: str, zipped: bool) -> None:
    found = {"state_dict": ntire().state_dict(), name: numbers()[name]}
    torch.save(found, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    assert same(tmp_path / "model.pt", ntire()).notes == ("took the weights under state_dict",)
    torch.save({**ntire().state_dict(), name: numbers()[name]}, tmp_path / "flat.pt")
    assert same(tmp_path / "flat.pt", ntire()).notes == ()


def test_files_of_numpy_1(tmp_path: Path) -> None:
    """Where the same functions had another name."""
    torch.save(
        {"state_dict": ntire().state_dict(), **numbers()}, tmp_path / "model.pt", _use_new_zipfile_serialization=False
    )
    data = (tmp_path / "model.pt").read_bytes()
    assert b"cnumpy._core.multiarray\n" in data
    (tmp_path / "model.pt").write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    same(tmp_path / "model.pt", ntire())


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", "f2"])
def test_weights_that_were_saved_as_arrays(tmp_path: Path, dtype: str) -> None:
    model = ntire("plain").half().float()
    state = {name: tensor.numpy().astype(dtype) for name, tensor in model.state_dict().items()}
    torch.save({"net": state}, tmp_path / "model.pt")
    same(tmp_path / "model.pt", model)


def test_what_torch_allows_is_as_before(tmp_path: Path) -> None:
    torch.save({"state_dict": ntire().state_dict(), **numbers()}, tmp_path / "model.pt")
    before = set(torch.serialization.get_safe_globals())
    import_weights(tmp_path / "model.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match="Unsupported global"):
        torch.load(tmp_path / "model.pt", weights_only=True)


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
