from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.strategies import ARCHS, SCALES, configs
from wdsr_edge import InputError
from wdsr_edge.models import ModelConfig, build, fold

PUBLISHED = {
    "edsr-1x64-x4": 409731,
    "edsr-3x64-x4": 557443,
    "edsr-5x64-x4": 705155,
    "edsr-8x64-x4": 926723,
    "wdsr-a-1x32-x4": 92304,
    "wdsr-a-3x32-x4": 240080,
    "wdsr-a-5x32-x4": 387856,
    "wdsr-a-8x32-x4": 609520,
    "wdsr-b-1x32-x4": 36809,
    "wdsr-b-3x32-x4": 73595,
    "wdsr-b-5x32-x4": 110381,
    "wdsr-b-8x32-x4": 165560,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    config = ModelConfig.from_name(name)
    assert config.parameters == count
    assert sum(p.numel() for p in fold(build(config)).parameters()) == count


@given(configs())
def test_parameters_are_those_of_the_folded_network(config: ModelConfig) -> None:
    folded = fold(build(config))
    assert config.parameters == sum(p.numel() for p in folded.parameters())
    shapes = [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.groups)
        for m in folded.modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert [conv[1:5] for conv in config.convs] == shapes


@given(configs())
def test_macs_are_those_that_a_forward_pass_spends(config: ModelConfig) -> None:
    folded, side, spent = fold(build(config)), 5, []

    def count(conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        spent.append(output.numel() * conv.weight[0].numel())

    for module in folded.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    folded(torch.rand(1, 3, side, side))
    assert config.macs * side**2 == sum(spent)
    assert [conv.macs * side**2 for conv in config.convs] == spent


def reach(config: ModelConfig) -> int:
    """How far, in LR pixels, one input pixel is seen in the output of a network that lets everything through."""
    folded = fold(build(config)).double()
    for parameter in folded.parameters():
        parameter.abs_()  # no ReLU is ever closed and nothing cancels
    side = 2 * config.halo + 9
    middle = side // 2
    frame = torch.full((1, 3, side, side), 0.9, dtype=torch.float64)
    changed = frame.clone()
    changed[..., middle, middle] += 50
    apart = (folded(changed) - folded(frame)).abs().amax(dim=(0, 1)) > 0
    rows, columns = (apart.any(dim=axis).nonzero().flatten() // config.scale for axis in (1, 0))
    return max(int((places - middle).abs().max()) for places in (rows, columns))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_halo_is_exactly_how_far_a_pixel_is_seen(arch: str, blocks: int, scale: int) -> None:
    config = ModelConfig.from_name(f"{arch}-{blocks}x8-x{scale}")
    assert reach(config) == config.halo


@given(configs())
@settings(max_examples=20)
def test_halo_is_a_bound_whatever_the_options(config: ModelConfig) -> None:
    assert 2 <= reach(config) <= config.halo


def test_halo_is_what_the_design_says() -> None:
    halos = {"wdsr-a-3x32-x2": 8, "wdsr-b-3x32-x3": 5, "edsr-8x64-x2": 20, "edsr-8x64-x4": 20}
    assert {name: ModelConfig.from_name(name).halo for name in halos} == halos


def test_defaults_are_the_papers() -> None:
    a, b, edsr = (ModelConfig.from_name(f"{arch}-1x32-x2") for arch in ("wdsr-a", "wdsr-b", "edsr"))
    assert (a.expansion, a.norm) == (4, "weight")
    assert (b.expansion, b.norm, b.low_rank_channels) == (6, "weight", 25)
    assert (edsr.expansion, edsr.norm) == (1, "none")
    assert (b.mean, b.std, b.res_scale) == ((0.4488, 0.4371, 0.4040), 0.5, 1.0)


@given(st.sampled_from(ARCHS), st.integers(1, 9999), st.integers(2, 9999), st.sampled_from(SCALES))
def test_names_round_trip(arch: str, blocks: int, channels: int, scale: int) -> None:
    name = f"{arch}-{blocks}x{channels}-x{scale}"
    config = ModelConfig.from_name(name)
    assert config.name == name
    assert (config.arch, config.blocks, config.channels, config.scale) == (arch, blocks, channels, scale)


@pytest.mark.parametrize("arch", ["edsr", "wdsr-a"])
def test_one_channel_is_a_network_too(arch: str) -> None:
    assert ModelConfig.from_name(f"{arch}-1x1-x2").parameters > 0


@pytest.mark.parametrize(
    "name",
    [
        "",
        "wdsr",
        "wdsr-b",
        "wdsr-c-3x32-x2",
        "WDSR-B-3x32-x2",
        "wdsr-b-3x32",
        "wdsr-b-3x32-x1",
        "wdsr-b-3x32-x5",
        "wdsr-b-3x32-x22",
        "wdsr-b-3x32-2",
        "wdsr-b-0x32-x2",
        "wdsr-b-3x0-x2",
        "wdsr-b-03x32-x2",
        "wdsr-b-3x032-x2",
        "wdsr-b--3x32-x2",
        "wdsr-b-3.0x32-x2",
        "wdsr-b-10000x32-x2",
        "wdsr-b-3x32-x2\n",
        " wdsr-b-3x32-x2",
        "wdsr-b-3x32-x2.onnx",
        "../wdsr-b-3x32-x2",
        "wdsr-b-3x3\uff12-x2",
        "wdsr-b-3x3\u0662-x2",
        "edsr-a-3x32-x2",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a model name"):
        ModelConfig.from_name(name)


@given(st.text(max_size=30))
def test_a_name_is_a_model_or_an_input_error(name: str) -> None:
    with contextlib.suppress(InputError):
        assert ModelConfig.from_name(name).name == name


GOOD: dict[str, Any] = {"arch": "wdsr-b", "blocks": 3, "channels": 32, "scale": 2}

NOT_COUNTS: list[Any] = [0, -1, 10000, 3.0, True, "3", None, [3], 10**400]
NOT_POSITIVE: list[Any] = [0, 0.0, -0.5, float("nan"), float("inf"), None, "0.5", True, [0.5], 10**400]
NOT_FINITE: list[Any] = [float("nan"), float("inf"), None, [0.4], 10**400]
BAD: dict[str, list[Any]] = {
    "arch": ["wdsr", "", None, 3, ["edsr"], {}, True],
    "norm": ["layer", "", None, 0, ["none"]],
    "expansion_conv": ["wide", None, 4],
    "blocks": NOT_COUNTS,
    "channels": NOT_COUNTS,
    "expansion": [-1, 65, 1.5, True, None, "4"],
    "scale": [0, 1, 5, -2, 2.0, True, "2", None, [2], {}, 10**400],
    "mean": [None, 0.5, "abc", [], [0.4] * 2, [0.4] * 4, {"r": 0.1}, ["0.1"] * 3, [True] * 3]
    + [[0.4, 0.4, value] for value in NOT_FINITE],
    "low_rank": [*NOT_POSITIVE, 1.0001, 2, 0.001],
    "std": NOT_POSITIVE,
    "res_scale": NOT_POSITIVE,
}
BAD_VALUES = [(name, value) for name, values in BAD.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES, ids=lambda part: repr(part)[:30])
def test_bad_values_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        ModelConfig.from_dict({**GOOD, name: value})


def test_combinations_without_a_network_are_refused() -> None:
    with pytest.raises(InputError, match="divisible by 4"):
        ModelConfig("wdsr-b", 1, 6, 2, expansion_conv="group")
    with pytest.raises(InputError, match="edsr has no expansion"):
        ModelConfig("edsr", 1, 8, 2, expansion=2)


@given(configs())
def test_dicts_round_trip_through_json(config: ModelConfig) -> None:
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert again.norm != "auto"
    assert again.expansion > 0


@pytest.mark.parametrize("values", [None, [], "wdsr-b-3x32-x2", 3, [["arch", "edsr"]]])
def test_from_dict_takes_an_object_only(values: object) -> None:
    with pytest.raises(InputError, match="config must be an object"):
        ModelConfig.from_dict(values)


def test_unknown_and_missing_keys_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown keys \['__class__', 'halo'\]"):
        ModelConfig.from_dict({**GOOD, "halo": 1, "__class__": "x"})
    with pytest.raises(InputError, match=r"lacks \['channels', 'scale'\]"):
        ModelConfig.from_dict({"arch": "edsr", "blocks": 1})
    with pytest.raises(InputError, match=r"unknown keys \['1'\]"):
        ModelConfig.from_dict(dict([*GOOD.items(), (1, 2)]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*ModelConfig("edsr", 1, 4, 2).to_dict(), "x"]), JSON))
@settings(max_examples=200)
def test_any_json_is_a_config_or_an_input_error(values: dict[str, Any]) -> None:
    with contextlib.suppress(InputError):
        ModelConfig.from_dict({**GOOD, **values})


def test_a_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        ModelConfig(**GOOD).blocks = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("channels", "share", "left"), [(32, 0.8, 25), (12, 0.33, 3), (35, 0.8, 28), (10, 0.3, 3), (100, 0.29, 29)]
)
def test_low_rank_channels_are_rounded_down(channels: int, share: float, left: int) -> None:
    assert ModelConfig("wdsr-b", 1, channels, 2, low_rank=share).low_rank_channels == left
