"""Every command through the real entry point: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.command_line import Done, refused, wdsr_edge
from wdsr_edge import InputError, cli
from wdsr_edge.backends import ON_CPU
from wdsr_edge.images import samples
from wdsr_edge.loading import ZOO

ROOT = Path(__file__).parents[3]
MODEL = "wdsr-b-3x32-x2"
PHOTO = samples.PHOTOS / "chelsea.png"


def document(done: Done) -> Any:
    """The one JSON document on stdout."""
    return json.loads(done.stdout)


@pytest.fixture
def small_photo(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    Image.fromarray(samples.golden_frame()).save(path)
    return path


def test_help_names_every_command() -> None:
    done = wdsr_edge()
    assert done.returncode == 0
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {
        "__init__",
        "app",
        "output",
        "pipes",
        "sizes",
    }
    for module in modules:
        assert f" {module.rstrip('_')} " in done.stdout
    assert wdsr_edge("upscale", "--help").returncode == 0


def test_help_shows_defaults_in_brackets() -> None:
    """Which are markup, unless they are escaped."""
    shown = wdsr_edge("train", "--help").stdout
    for default in ("[step]", "[l1]", "[auto]", "[600000]"):
        assert default in shown
    assert "[480x270]" in wdsr_edge("compile", "--help").stdout


def test_version() -> None:
    done = wdsr_edge("--version")
    assert (done.returncode, done.stdout.count(".")) == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["nonsense"]),
        (["models", "wdsr-c-3x32-x2"], ["wdsr-c-3x32-x2", "ARCH-BLOCKSxCHANNELS-xSCALE"]),
        (["models", "--depth"], ["--depth"]),
        (["benchmark", "no-such-model"], ["no-such-model", MODEL]),
        (["benchmark", MODEL, "--size", "480"], ["480", "WIDTHxHEIGHT"]),
        (["upscale"], ["IMAGE"]),
        (["upscale", "missing.png"], ["missing.png"]),
        (["upscale", str(PHOTO), "--model", "/no/such/bundle"], ["/no/such/bundle"]),
        (["upscale", str(samples.PHOTOS)], ["--output"]),
        (["upscale", str(PHOTO), "--format", "gif"], ["gif"]),
        (["upscale", str(PHOTO), "-o", "x.exe/"], ["x.exe"]),
        (["deploy", "missing.safetensors"], ["missing.safetensors"]),
        (["deploy", str(PHOTO)], ["safetensors"]),
        (["verify", MODEL, "--images", "missing"], ["missing"]),
        (["verify", MODEL, "--onnx", str(PHOTO)], ["chelsea.png"]),
        (["upscale", str(PHOTO), "-o", "x.gif"], ["x.gif", ".png"]),
        (["upscale", str(PHOTO), "-o", "x.png", "--format", "jpg"], ["x.png", ".jpg"]),
        (["verify", MODEL, "--onnx", "none.onnx"], ["none.onnx", "no such file"]),
        (["verify", "x.safetensors"], ["x.safetensors", "--onnx"]),
        (["export", MODEL, "-o", "x.onnx", "--io", "int4"], ["int4"]),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    if "x.exe/" in arguments:
        (tmp_path / "x.exe").write_text("in the way")
    refused(wdsr_edge(*arguments, cwd=tmp_path), *words)
    assert {path.name for path in tmp_path.iterdir()} <= {"x.exe"}


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in wdsr_edge("--debug", "models", "nonsense").stderr


def test_models_lists_published_counts() -> None:
    entries = {entry["name"]: entry for entry in document(wdsr_edge("models", "--json"))}
    assert entries["wdsr-b-8x32-x4"]["parameters"] == 165_560
    assert entries["edsr-8x64-x4"]["halo"] == 20
    assert entries[MODEL]["shipped"]
    table = wdsr_edge("models", MODEL)
    assert "60,455" in table.stdout
    assert table.stderr == ""


def test_upscale_a_photo(tmp_path: Path) -> None:
    target = tmp_path / "made" / "big.png"
    done = wdsr_edge("upscale", PHOTO, "-o", target)
    assert done.returncode == 0, done.stderr
    with Image.open(target) as big, Image.open(PHOTO) as small:
        assert big.size == (902, 600)
        shrunk = np.asarray(big.resize(small.size, Image.Resampling.BOX), np.int16)
        assert np.abs(shrunk - np.asarray(small)).mean() < 3


def test_upscale_goes_beside_the_input_by_default(small_photo: Path) -> None:
    assert wdsr_edge("upscale", small_photo).returncode == 0
    with Image.open(small_photo.with_name("small_x2.png")) as big:
        assert big.size == (256, 192)


def test_upscale_folder_with_a_broken_file(small_photo: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (tmp_path / "notes.txt").write_text("not an image")
    done = wdsr_edge("upscale", tmp_path, "-o", tmp_path / "out", "--json")
    assert done.returncode == 1
    entries = {Path(entry["source"]).name: entry["error"] for entry in document(done)}
    assert entries["small.png"] == ""
    assert "broken.jpg" in entries["broken.jpg"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small.png"]


def test_upscale_never_overwrites_an_input(small_photo: Path) -> None:
    before = small_photo.read_bytes()
    refused(wdsr_edge("upscale", small_photo, "-o", small_photo), "small.png")
    refused(wdsr_edge("upscale", small_photo, "-o", small_photo.parent), "small.png")
    assert small_photo.read_bytes() == before


def test_two_inputs_for_one_output(small_photo: Path) -> None:
    with Image.open(small_photo) as image:
        image.save(small_photo.with_suffix(".bmp"))
    target = small_photo.parent / "out"
    refused(wdsr_edge("upscale", small_photo.parent, "-o", target, "--format", "png"), "small.bmp", "rename")
    assert not target.exists()


def test_verify_passes_on_the_shipped_model(small_photo: Path) -> None:
    assert document(wdsr_edge("verify", MODEL, "--images", small_photo, "--json"))["passed"]


def test_verify_names_what_is_wrong_with_a_graph(tmp_path: Path, small_photo: Path) -> None:
    graph = tmp_path / "graph.onnx"
    assert wdsr_edge("export", MODEL, "-o", graph, "--io", "float32").returncode == 0
    assert wdsr_edge("verify", MODEL, "--onnx", graph, "--images", small_photo).returncode == 0
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.name in ("head.weight", "skip.weight"):
            swapped = onnx.numpy_helper.to_array(tensor)[:, ::-1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(swapped), tensor.name))
        elif tensor.name == "mean":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[:, ::-1].copy(), "mean"))
    onnx.save(model, graph)
    done = wdsr_edge("verify", MODEL, "--onnx", graph, "--images", small_photo)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert "red and blue swapped on input" in done.stderr


def test_deploy_makes_a_bundle_that_runs(tmp_path: Path, small_photo: Path) -> None:
    bundle = tmp_path / "bundle"
    done = wdsr_edge(
        "deploy", MODEL, "-o", bundle, "--size", "64x48", "--seconds", "0", "--images", small_photo, "--json"
    )
    assert done.returncode == 0, done.stderr
    report = document(done)
    graphs = ("fp32", "fp16", "int8-cpu")  # the shipped bundle's INT8 is kept
    assert {(entry["graph"], entry["engine"]) for entry in report["parity"]} == {
        *((graph, engine) for graph in graphs for engine in ON_CPU),
        ("int8", "onnxruntime"),
    }
    assert all(entry["passed"] for entry in report["parity"])
    for entry in report["choices"]:
        assert entry["sizes"][0]["p50_ms"] > 0
    again = wdsr_edge("upscale", small_photo, "-m", bundle, "-o", tmp_path / "big.png")
    assert again.returncode == 0, again.stderr
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["training"] == json.loads((ZOO / MODEL / "manifest.json").read_text())["training"]


def test_deploy_table_says_that_there_is_no_gpu(tmp_path: Path, small_photo: Path) -> None:
    done = wdsr_edge(
        "deploy", MODEL, "-o", tmp_path / "b", "--size", "64x48", "--seconds", "0", "--images", small_photo
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no GPU here") == 3
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "60,455 parameters" in done.stdout


def test_benchmark_figures_are_in_order() -> None:
    found = document(wdsr_edge("benchmark", MODEL, "--size", "64x48", "--seconds", "0.2", "--json"))["choices"]
    assert {(entry["backend"], entry["precision"]) for entry in found} == {
        (backend, precision) for backend in ON_CPU for precision in ("fp32", "int8")
    }
    for entry in found:
        (size,) = entry["sizes"]
        assert 0 < size["p50_ms"] <= size["p95_ms"] <= size["p99_ms"]
        assert size["runs"] >= 10
        assert size["fps"] == pytest.approx(1000 / size["mean_ms"])
        assert not entry["fault"]


def test_benchmark_of_one_engine_and_precision() -> None:
    options = ["--size", "64x48", "--seconds", "0", "--backend", "openvino", "--precision", "fp16"]
    done = wdsr_edge("benchmark", MODEL, *options)
    assert done.returncode == 0, done.stderr
    assert [line.split()[3:5] for line in done.stdout.splitlines()[2:]] == [["openvino", "fp16"]]


@pytest.mark.parametrize(
    "command",
    [
        ("benchmark", MODEL, "--size", "8x8"),
        ("benchmark", MODEL, "--size", "8x8", "--backend", "openvino"),
        ("upscale", str(PHOTO), "-o", "big.png"),
        ("doctor", "--self-test"),
        ("compile", MODEL),
    ],
)
def test_the_cpu_does_not_stand_in_for_a_gpu_that_was_asked_for(command: tuple[str, ...], tmp_path: Path) -> None:
    refused(wdsr_edge(*command, "--device", "3", cwd=tmp_path), "GPU")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", [("benchmark", MODEL), ("verify", MODEL), ("upscale", str(PHOTO), "-m", MODEL)])
def test_an_engine_without_a_gpu_is_one_line(command: tuple[str, ...], tmp_path: Path) -> None:
    refused(wdsr_edge(*command, "--engine", tmp_path / "my.engine"), "my.engine' cannot be read: it is not a file")
    (tmp_path / "my.engine").write_bytes(b"x")
    refused(wdsr_edge(*command, "--engine", tmp_path / "my.engine"), "cannot tell the precision of")
    (tmp_path / "my.json").write_text('{"precision": "fp16"}')
    refused(wdsr_edge(*command, "--engine", tmp_path / "my.engine"), "is for tensorrt or tensorrt-rtx on a GPU")


def test_models_tell_quality_and_sizes_of_what_ships(tmp_path: Path) -> None:
    (one,) = document(wdsr_edge("models", MODEL, "--json"))
    manifest = json.loads((ZOO / MODEL / "manifest.json").read_text(encoding="utf-8"))
    assert one["psnr_y"] == {name: manifest["figures"][name]["psnr_y"] for name in ("Set5", "Set14", "BSD100")}
    assert one["files"].keys() == manifest["files"].keys()
    assert one["files"]["fp32.onnx"] == (ZOO / MODEL / "fp32.onnx").stat().st_size
    table = wdsr_edge("models").stdout
    assert f"{one['psnr_y']['Set5']:.2f}" in table
    assert f"{sum(one['files'].values()) / 1000:,.0f}" in table
    assert wdsr_edge("models", "edsr-1x64-x2").stdout.count("\n") == 3, "no second table"


def test_models_pass_over_what_is_damaged_and_take_any_name(tmp_path: Path) -> None:
    shutil.copytree(ZOO / MODEL, tmp_path / "my camera")
    card = json.loads((tmp_path / "my camera" / "manifest.json").read_text(encoding="utf-8"))
    odd: list[Any] = [7, {"Set5": {"psnr_y": "high"}}, {"Set5": [1]}, None, {"Mine": {"psnr_y": 30}}]
    for i, figures in enumerate(odd):
        (tmp_path / f"odd{i}").mkdir()
        (tmp_path / f"odd{i}" / "manifest.json").write_text(json.dumps({**card, "files": {}, "figures": figures}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("{}")
    done = wdsr_edge("models", "--json", env={**os.environ, "WDSR_EDGE_ZOO": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("bad is left out: ")
    found = {one["name"]: one for one in document(done)}
    assert found["my camera"]["parameters"] == 60455
    assert [found[f"odd{i}"]["psnr_y"] for i in range(5)] == [{}, {}, {}, {}, {"Mine": 30}]
    assert "bad" not in found


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["train", "--nonsense"], "wdsr-edge train --help"),
        (["upscale"], "wdsr-edge upscale --help"),
        (["benchmark", "--seconds", "-1"], "wdsr-edge benchmark --help"),
        (["nonsense"], "wdsr-edge --help"),
        (["--nonsense"], "wdsr-edge --help"),
        (["doctor", "extra"], "wdsr-edge doctor --help"),
    ],
)
def test_a_usage_error_points_to_the_help_of_its_command(arguments: list[str], command: str) -> None:
    refused(wdsr_edge(*arguments), f"Try '{command}'.")


def test_doctor_tries_the_engine() -> None:
    report = document(wdsr_edge("doctor", "--json"))
    assert report["onnxruntime_providers"]["CPUExecutionProvider"] == "works"
    others = {name: found for name, found in report["onnxruntime_providers"].items() if name != "CPUExecutionProvider"}
    assert all(found != "works" for name, found in others.items() if name == "AzureExecutionProvider")
    assert report["memory_gib"] > 0
    assert report["cpu"]["cores"] >= 1
    assert MODEL in report["models"]
    assert "This machine" in wdsr_edge("doctor").stdout


def test_closed_stdout_is_no_bug() -> None:
    command = f"{sys.executable} -m wdsr_edge models >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


CARDS = {
    "NaN": '{"training": {"steps": NaN}}',
    "infinity": '{"figures": [1e999]}',
    "no object": "[]",
    "an unknown key": '{"files": {}}',
    "deep": '{"training": ' + "[" * 900 + "]" * 900 + "}",
    "large": json.dumps({"training": "x" * (1 << 20)}),
    "not text": "\udc80",
}


@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_checked_before_the_work(tmp_path: Path, card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which begins with the export."""
    from wdsr_edge.cli import deploy

    (tmp_path / "card.json").write_bytes(CARDS[card].encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"card\.json: ") as raised:
        deploy._read_card(tmp_path / "card.json")
    assert "\n" not in str(raised.value)


def test_debug_goes_anywhere() -> None:
    for arguments in (["--debug", "models", "x"], ["models", "x", "--debug"], ["models", "--debug", "x"]):
        done = wdsr_edge(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "InputError: 'x'" in done.stderr
    refused(wdsr_edge("models", "--", "--debug"), "--debug")
