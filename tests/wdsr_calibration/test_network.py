"""The network that can be quantised: the folded one until something is, and its names the deploy graph's."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings

from tests.strategies import configs, trained_like
from wdsr_calibration.equalisation import equalise
from wdsr_calibration.network import LEVELS, Network, kernel_scales, representable, result_of
from wdsr_calibration.placement import Placement, body
from wdsr_calibration.ranges import channel_maxima
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import EDSR, WDSR, ModelConfig, fold
from wdsr_edge.models.reference import to_tensor
from wdsr_export import export_onnx

CROP = to_tensor(sample_frames()["chelsea.png"][None, 100:124, 120:150])


def net(name: str, **options: object) -> EDSR | WDSR:
    config = ModelConfig.from_name(name)
    return trained_like(ModelConfig(config.arch, config.blocks, config.channels, config.scale, **options))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(config=configs())
@torch.no_grad()
def test_it_is_the_folded_network_until_something_is_quantised(config: ModelConfig) -> None:
    model = trained_like(config)
    network, folded = Network(model), fold(model)
    assert torch.equal(network(CROP), folded(CROP))
    assert torch.equal(network.plain()(CROP), folded(CROP))
    network.place(network.quantisable, network.identities)
    assert not torch.equal(network(CROP), folded(CROP))
    network.place(())
    assert torch.equal(network(CROP), folded(CROP))


@settings(max_examples=15, deadline=None)
@given(config=configs())
def test_names_are_those_of_the_deploy_graph(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    model = trained_like(config)
    export_onnx(model, path)
    graph, network = ir.load(path).graph, Network(model)
    reads = {str(node.name): {value.name for value in node.inputs if value is not None} for node in graph}
    ops = {str(node.name): node.op_type for node in graph}
    for name, edge in network.edges.items():
        conv = next((conv for conv in network.results if result_of(conv) == name), None)
        if conv is not None:
            assert edge.quantiser.name == conv
            assert any(op == "Add" and conv in reads[user] for user, op in ops.items())
            continue
        assert edge.quantiser.name in reads[name]
        assert ops[name] == ("Conv" if name in network.convs else "Add")
    assert {name for name, op in ops.items() if op == "Conv"} == network.convs.keys()


@pytest.mark.parametrize(
    ("name", "convs", "identities"),
    [
        ("wdsr-b-2x8-x2", [*(f"body.{b}.branch.{i}" for b in (0, 1) for i in (0, 2, 3)), "tail"], ["add", "add_1"]),
        ("wdsr-a-1x8-x3", ["body.0.branch.0", "body.0.branch.2", "tail"], ["add"]),
        (
            "edsr-1x8-x4",
            ["body.0.branch.0", "body.0.branch.2", "body_end", "upsampler.0", "upsampler.2", "tail"],
            ["add", "add_1"],
        ),
    ],
)
def test_what_reads_the_picture_is_never_quantised(name: str, convs: list[str], identities: list[str]) -> None:
    network = Network(net(name))
    assert list(network.quantisable) == convs
    assert list(network.identities) == identities
    assert set(network.results) <= set(convs)
    assert len(network.results) == len(identities)
    assert {"head", "skip"} & network.convs.keys() <= network.convs.keys() - set(convs)


def test_an_identity_shares_the_scale_of_the_convolution_beside_it() -> None:
    network = Network(net("wdsr-b-2x8-x2"))
    assert network.edges["add"].quantiser is network.edges["body.0.branch.0"].quantiser
    assert network.edges["add_1"].quantiser is network.edges["body.1.branch.0"].quantiser
    assert [name for name, quantiser in network.tensors.items() if not quantiser.signed] == [
        "body.0.branch.1",
        "body.1.branch.1",
    ]


@torch.no_grad()
def test_a_placed_convolution_computes_with_codes() -> None:
    network = Network(net("wdsr-a-1x8-x2"), kernel_levels=63)
    name = "body.0.branch.2"
    network.tensors["body.0.branch.1"].set_scale(0.02)
    network.place([name])
    conv = network.convs[name]
    seen: dict[str, torch.Tensor] = {}
    conv.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
    network(CROP)
    codes = seen["x"] / network.tensors["body.0.branch.1"].scale
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert codes.min() >= 0
    assert codes.max() <= LEVELS
    scales = kernel_scales(conv.weight, 63)
    kernel = (conv.weight / scales.view(-1, 1, 1, 1)).round()
    assert kernel.abs().max() == 63
    expected = torch.nn.functional.conv2d(seen["x"], kernel * scales.view(-1, 1, 1, 1), conv.bias, padding=1)
    assert torch.equal(seen["y"], expected)


def test_scales_are_fp16_numbers() -> None:
    scales = representable(torch.tensor([0.0, 1e-9, 0.01234567, 3.0, 1e9]))
    assert torch.equal(scales, scales.half().float())
    assert scales.min() > 0
    assert scales.isfinite().all()
    assert abs(scales[2] / 0.01234567 - 1) < 1e-3


def test_a_kernel_of_zeros_gets_a_scale() -> None:
    kernel = torch.ones(3, 2, 1, 1)
    kernel[1] = 0
    assert (kernel_scales(kernel, 127) > 0).all()


@settings(max_examples=25, deadline=None)
@given(config=configs())
@torch.no_grad()
def test_equalisation_leaves_the_picture_and_makes_channels_alike(config: ModelConfig) -> None:
    model = trained_like(config)
    network = Network(model)
    before, old = network(CROP), channel_maxima(network, [CROP])
    equalise(network, old)
    after = network(CROP)
    assert (after - before).abs().max() < 1e-4 * max(1, before.abs().max())
    maxima = channel_maxima(network, [CROP])
    for group in network.groups:
        tensors = {network.edges[name].quantiser.name for name in group.consumers}
        first, reach = (torch.stack([found[name] for name in tensors]).amax(0) for found in (old, maxima))
        alive = first > first.max() / 64
        assert torch.allclose(reach[alive], reach.max(), rtol=1e-2), group


def test_the_residual_stream_is_one_group() -> None:
    groups = Network(net("wdsr-b-2x8-x2")).groups
    assert groups[0].producers == ("head", "body.0.branch.3", "body.1.branch.3")
    assert groups[0].consumers == ("body.0.branch.0", "body.1.branch.0", "tail")
    assert {(group.producers, group.consumers) for group in groups[1:]} == {
        ((f"body.{b}.branch.{i}",), (f"body.{b}.branch.{j}",)) for b in (0, 1) for i, j in ((0, 2), (2, 3))
    }


def test_shares_are_of_multiply_accumulates() -> None:
    network = Network(net("wdsr-b-2x8-x2"))
    whole = body(network)
    assert whole.share(network.macs, "body.") == 1
    assert sum(network.macs.values()) == network.config.macs
    inside = sum(count for name, count in network.macs.items() if name.startswith("body"))
    assert whole.share(network.macs) == pytest.approx(inside / network.config.macs)
    assert Placement().share(network.macs) == 0
