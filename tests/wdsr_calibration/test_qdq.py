"""The quantised graphs, node by node, and run."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings

from tests.strategies import configs, trained_like
from wdsr_calibration import Placement, Quantised, insert_qdq
from wdsr_calibration.equalisation import equalise
from wdsr_calibration.network import LEVELS, Network
from wdsr_calibration.qdq import LEVELS_OF_FORM, MIDDLE, RELU_LEVELS_OF_FORM, Form
from wdsr_calibration.ranges import channel_maxima, histograms, set_scales
from wdsr_edge import ExportError, InputError
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.metrics import difference
from wdsr_edge.models import ModelConfig, reference
from wdsr_edge.models.reference import to_tensor
from wdsr_edge.onnx_reader import read_onnx
from wdsr_export import export_onnx

FRAME = np.ascontiguousarray(sample_frames()["chelsea.png"][60:110, 100:160])
FORMS: tuple[Form, ...] = ("tensorrt", "cpu")


def calibration(config: ModelConfig, form: Form, *, everything: bool = True, identities: bool = True) -> Quantised:
    """As ``calibrate`` would make it, but in no time."""
    network = Network(trained_like(config), kernel_levels=LEVELS_OF_FORM[form])
    crops = [to_tensor(FRAME[None])]
    equalise(network, channel_maxima(network, crops))
    set_scales(network, histograms(network, crops, channel_maxima(network, crops)), "min-max")
    convs = [name for name in network.quantisable if everything or name.startswith("body.")]
    results = tuple(name for name in network.results if name in convs)
    placement = Placement(tuple(convs), network.identities if identities else (), results if form == "cpu" else ())
    return Quantised(config, network.plain(), form, network.scales, placement)


def simulated(found: Quantised) -> Network:
    levels = {"kernel_levels": LEVELS_OF_FORM[found.form], "relu_levels": RELU_LEVELS_OF_FORM[found.form]}
    network = Network(found.model, **levels)
    for name, scale in found.scales.items():
        network.tensors[name].set_scale(scale)
    found.placement.apply(network)
    return network


def export(found: Quantised, path: Path) -> ir.Graph:
    export_onnx(found, path, precision="int8", frames={"chelsea": FRAME})
    return ir.load(path).graph


def constant(value: ir.Value | None) -> Any:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def producer(value: ir.Value | None) -> ir.Node:
    assert value is not None
    node = value.producer()
    assert node is not None
    return node


def run(path: Path, frame: Any) -> Any:
    """Node by node: ONNX Runtime would quantise biases in FP16 else, and overflow."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"lr": frame[None]})[0][0]


@settings(max_examples=12, deadline=None)
@given(config=configs(blocks=1))
def test_any_network_runs_as_simulated(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("graph") / "int8-cpu.onnx"
    found = calibration(config, "cpu", everything=config.arch != "edsr")
    export(found, path)
    assert difference(run(path, FRAME), reference(simulated(found))(FRAME)).psnr_db > 35


@cache
def graph(form: Form, folder: Path) -> tuple[Quantised, ir.Graph]:
    found = calibration(ModelConfig("wdsr-b", 2, 32, 2), form)
    return found, export(found, folder / f"{form}.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.mark.parametrize("form", FORMS)
def test_kernels_are_codes_with_a_scale_for_each_channel(form: Form, folder: Path) -> None:
    found, made = graph(form, folder)
    for node in made:
        if node.op_type != "Conv":
            continue
        assert node.inputs[2] is not None
        assert node.inputs[2].const_value is not None, "biases stay float"
        if node.name not in found.placement.convs:
            assert node.inputs[1] is not None
            assert node.inputs[1].const_value is not None, f"{node.name} stays float"
            continue
        dequantise = producer(node.inputs[1])
        assert dequantise.op_type == "DequantizeLinear"
        assert dequantise.attributes["axis"].as_int() == 0
        codes, scales, zeros = map(constant, dequantise.inputs)
        assert codes.dtype == np.int8
        assert np.abs(codes).max() == LEVELS_OF_FORM[form]
        assert scales.shape == zeros.shape == (len(codes),)
        assert (scales > 0).all()
        assert not zeros.any()
        assert scales.dtype == (np.float16 if form == "tensorrt" else np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_activations_have_one_scale_and_nothing_stands_between_a_convolution_and_its_relu(
    form: Form, folder: Path
) -> None:
    found, made = graph(form, folder)
    nodes = {str(node.name): node for node in made}
    for name in (*found.placement.convs, *found.placement.identities):
        user = nodes[name]
        seen = [producer(value) for value in user.inputs[: 1 if user.op_type == "Conv" else 2]]
        quantised = [node for node in seen if node.op_type == "DequantizeLinear"]
        assert len(quantised) == (2 if user.op_type == "Add" and form == "cpu" else 1)
        for dequantise in quantised:
            quantise = producer(dequantise.inputs[0])
            assert quantise.op_type == "QuantizeLinear"
            assert quantise.inputs[1:] == dequantise.inputs[1:]
            scale, zero = map(constant, quantise.inputs[1:])
            assert scale.shape == zero.shape == ()
            behind_relu = producer(quantise.inputs[0]).op_type == "Relu"
            assert zero.dtype == (np.uint8 if form == "cpu" else np.int8)
            assert zero == (MIDDLE if form == "cpu" and not behind_relu else 0)
            reach = float(scale) * (255 if form == "cpu" and behind_relu else LEVELS)
            assert quantise.inputs[0] is not None
            assert reach == pytest.approx(found.scales[str(quantise.inputs[0].name)] * LEVELS, rel=2e-3)
    for node in made:
        if node.op_type == "Relu":
            assert producer(node.inputs[0]).op_type == "Conv"
    tensors = [producer(node.inputs[0]).name for node in made if node.op_type == "QuantizeLinear"]
    assert len(tensors) == len(set(tensors)), "one Q for each tensor"


def test_the_branch_side_of_an_add_is_quantised_for_cpus_alone(folder: Path) -> None:
    for form, kinds in (("tensorrt", ["Conv", "DequantizeLinear"]), ("cpu", ["DequantizeLinear", "DequantizeLinear"])):
        found, made = graph(form, folder)  # type: ignore[arg-type]
        for node in made:
            if node.name in found.placement.identities:
                assert sorted(producer(value).op_type for value in node.inputs) == kinds


def test_onnxruntime_computes_every_convolution_of_the_body_in_integers(tmp_path: Path) -> None:
    found = calibration(ModelConfig("wdsr-b", 2, 8, 2), "cpu", everything=False, identities=False)
    export(found, tmp_path / "int8-cpu.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(tmp_path / "int8-cpu.onnx", options, providers=["CPUExecutionProvider"])
    made = [node.op_type for node in ir.load(tmp_path / "optimised.onnx").graph]
    assert made.count("QLinearConv") == 6
    assert made.count("Conv") + made.count("FusedConv") == 3, "head, skip and tail"


def test_the_tensorrt_form_is_fp16_around_int8(folder: Path) -> None:
    _, made = graph("tensorrt", folder)
    for node in made:
        for value in node.outputs:
            assert value.dtype != ir.DataType.FLOAT, node.name
    summary = read_onnx((folder / "tensorrt.onnx").read_bytes())
    assert summary.opset == 19


def test_the_cpu_form_is_fp32_around_int8(folder: Path) -> None:
    _, made = graph("cpu", folder)
    assert all(value.dtype != ir.DataType.FLOAT16 for node in made for value in node.outputs)


@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_the_simulation_does(form: Form, folder: Path) -> None:
    found, _ = graph(form, folder)
    expected = reference(simulated(found))(FRAME)
    plain = reference(trained_like(ModelConfig("wdsr-b", 2, 32, 2)))(FRAME)
    made = run(folder / f"{form}.onnx", FRAME)
    assert difference(made, expected).psnr_db > difference(expected, plain).psnr_db + 3


def test_identities_stay_float_where_they_are_not_placed(tmp_path: Path) -> None:
    found = calibration(ModelConfig("wdsr-b", 2, 8, 2), "tensorrt", everything=False, identities=False)
    made = export(found, tmp_path / "int8.onnx")
    for node in made:
        if node.op_type == "Add":
            assert not any(producer(value).op_type == "DequantizeLinear" for value in node.inputs)
    assert sum(node.op_type == "QuantizeLinear" for node in made) == 6


def test_the_same_calibration_gives_the_same_bytes(tmp_path: Path) -> None:
    for form in FORMS:
        for name in ("a", "b"):
            export(calibration(ModelConfig("wdsr-a", 1, 8, 3), form), tmp_path / f"{form}-{name}.onnx")
        assert (tmp_path / f"{form}-a.onnx").read_bytes() == (tmp_path / f"{form}-b.onnx").read_bytes()


def test_a_graph_of_another_network_is_refused(tmp_path: Path) -> None:
    export_onnx(trained_like(ModelConfig("wdsr-b", 1, 8, 2)), tmp_path / "fp32.onnx")
    model = ir.load(tmp_path / "fp32.onnx")
    for placement in (Placement(("body.1.branch.0",)), Placement((), ("body.0.branch.0",))):
        with pytest.raises(ExportError, match=r"no (Conv|Add) body"):
            insert_qdq(model, {}, placement, "cpu")


def test_int8_takes_a_calibration_and_nothing_else_does(tmp_path: Path) -> None:
    found = calibration(ModelConfig("wdsr-b", 1, 8, 2), "cpu")
    with pytest.raises(InputError, match="INT8 takes what"):
        export_onnx(found, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="INT8 takes what"):
        export_onnx(found.model, tmp_path / "x.onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_the_metadata_says_what_is_int8(form: Form, folder: Path) -> None:
    found, _ = graph(form, folder)
    metadata = read_onnx((folder / f"{form}.onnx").read_bytes()).metadata
    assert f'"form": "{form}"' in metadata["wdsr_edge.int8"]
    assert all(f'"{name}"' in metadata["wdsr_edge.int8"] for name in found.placement.convs)
    assert metadata["wdsr_edge.precision"] == '"int8"'
