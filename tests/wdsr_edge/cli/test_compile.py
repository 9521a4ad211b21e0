"""``wdsr-edge compile``: engines for another machine, built on this one."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.command_line import refused, wdsr_edge
from wdsr_edge.loading import ZOO

MODEL = "wdsr-b-1x32-x2"


@pytest.fixture
def rtx() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")


@pytest.mark.usefixtures("rtx")
def test_engines_are_written_with_what_they_are(tmp_path: Path) -> None:
    more = ["--target", "rtx-4090", "--target", "rtx-5090", "--size", "64x48", "--portrait"]
    done = wdsr_edge("compile", MODEL, *more, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    engines = json.loads(done.stdout)["engines"]
    assert [(entry["target"], entry["precision"]) for entry in engines] == [
        (target, precision) for target in ("rtx-4090", "rtx-5090") for precision in ("fp32", "fp16", "int8")
    ]
    assert len({entry["sha256"] for entry in engines}) == 6
    for entry in engines:
        path = tmp_path / entry["engine"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        onnx = (ZOO / MODEL / f"{entry['precision']}.onnx").read_bytes()
        assert hashlib.sha256(onnx).hexdigest() == entry["onnx_sha256"]
        beside = json.loads(path.with_suffix(".json").read_text())
        assert (beside["engine"], beside["faults"]) == (path.name, [])
        assert beside["library"].startswith("tensorrt-rtx 1.")
        assert "-64x48_48x64-" in path.name
        assert bool(entry["widened"]) == (entry["precision"] == "int8")
    assert "3 INT8 convolutions hand on FP32" in done.stderr
    assert len(list((tmp_path / "engines").iterdir())) == 12


@pytest.mark.usefixtures("rtx")
def test_what_runs_in_another_precision_is_not_written(tmp_path: Path) -> None:
    done = wdsr_edge("compile", MODEL, "--target", "t4", "--precision", "int8", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert "3 of 6" in done.stdout
    last = done.stderr.splitlines()[-1]
    assert last == "int8 for t4 was not written: body.0.branch.0 asked for int8 and runs in fp16 (and 2 more)"
    assert not (tmp_path / "out").exists()


def test_a_jetson_is_told_what_to_run_there(tmp_path: Path) -> None:
    done = wdsr_edge("compile", MODEL, "--target", "jetson-orin-nano", "--precision", "fp16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command, line = done.stdout.splitlines()
    assert command == f"wdsr-edge compile {MODEL}/ --backend tensorrt --precision fp16 --size 480x270"
    words = shlex.split(line)
    assert words[:2] == ["trtexec", f"--onnx={MODEL}/fp16.onnx"]
    assert "--optShapes=lr:1x270x480x3" in words
    assert "TensorRT for RTX has no Jetson Orin Nano 8GB Super, which compiles for itself" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_line_names_the_bundle_that_was_given(tmp_path: Path) -> None:
    shutil.copytree(ZOO / MODEL, tmp_path / "my-camera")
    done = wdsr_edge("compile", "my-camera", "--target", "jetson-thor", "--size", "64x48", cwd=tmp_path)
    command, *lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert command[:3] == ["wdsr-edge", "compile", "my-camera/"]
    assert [words[1] for words in lines] == [f"--onnx=my-camera/{kind}.onnx" for kind in ("fp32", "fp16", "int8")]
    assert lines[0][2] == f"--saveEngine={MODEL}-fp32-64x48-jetson-thor.engine"
    refused(wdsr_edge("compile", "my-camera", "--target", "jetson-thor", "--tiling", "fast", cwd=tmp_path), "--tiling")


def test_a_name_for_a_shell_stays_a_name(tmp_path: Path) -> None:
    name = "my cam; touch gone #"
    shutil.copytree(ZOO / MODEL, tmp_path / name)
    done = wdsr_edge("compile", name, "--target", "jetson-thor", "--precision", "fp16", cwd=tmp_path)
    command, line = [shlex.split(line) for line in done.stdout.splitlines()]
    assert command[2] == f"{name}/"
    assert line[1] == f"--onnx={name}/fp16.onnx"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "jetson-agx-orin", "--dla", "0"], ["a DLA runs FP16 alone"]),
        (["--target", "jetson-agx-orin", "--dla", "2", "--precision", "fp16"], ["no DLA 2", "has 2"]),
        (["--target", "jetson-orin-nano", "--dla", "0", "--precision", "fp16"], ["no DLA 0", "Nano", "has 0"]),
        (["--target", "h100", "--dla", "0", "--precision", "fp16"], ["no DLA 0", "has 0"]),
        (
            ["--target", "jetson-agx-orin", "--dla", "0", "--precision", "fp16", "--profile", "8x8,9x9,9x9"],
            ["a DLA takes one shape"],
        ),
        (["--target", "t4", "--backend", "tensorrt"], ["--backend", "leave them out with --target"]),
        (["--target", "t4", "--device", "1"], ["--device", "leave them out with --target"]),
    ],
)
def test_what_another_device_has_not_is_one_line(options: list[str], words: list[str], tmp_path: Path) -> None:
    refused(wdsr_edge("compile", MODEL, *options, cwd=tmp_path), *words)


def test_a_dla_of_another_device(tmp_path: Path) -> None:
    options = ("--target", "jetson-agx-orin", "--dla", "1", "--precision", "fp16", "--size", "64x48")
    done = wdsr_edge("compile", MODEL, *options, cwd=tmp_path)
    command, line = done.stdout.splitlines()
    assert command.endswith("--precision fp16 --size 64x48 --dla 1")
    assert "--useDLACore=1 --allowGPUFallback" in line


def test_a_bundle_without_graphs_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ZOO / MODEL, tmp_path / "bare")
    manifest = json.loads((tmp_path / "bare" / "manifest.json").read_text())
    for kind in ("fp32", "fp16", "int8", "int8-cpu"):
        (tmp_path / "bare" / f"{kind}.onnx").unlink()
        del manifest["files"][f"{kind}.onnx"]
    (tmp_path / "bare" / "manifest.json").write_text(json.dumps(manifest))
    refused(wdsr_edge("compile", "bare", "--target", "jetson-thor", cwd=tmp_path), "bare", "no graph for TensorRT")


def test_a_file_in_the_way_is_found_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "afile").touch()
    refused(wdsr_edge("compile", MODEL, "--target", "t4", "-o", "afile", cwd=tmp_path), "afile", "is a file")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([MODEL], ["--target"]),
        ([MODEL, "--target", "rtx-4091"], ["rtx-4091", "rtx-4090", "jetson-thor"]),
        (["no-such-model", "--target", "t4"], ["no-such-model"]),
        ([MODEL, "--target", "t4", "--precision", "fp8"], ["--precision", "fp8"]),
        ([MODEL, "--target", "t4", "--size", "0x4"], ["0x4", "WIDTHxHEIGHT"]),
        ([MODEL, "--target", "t4", "--profile", "64x64,32x32"], ["64x64,32x32", "MIN,BEST,MAX"]),
        ([MODEL, "--target", "t4", "--profile", "64x64,32x32,99x99"], ["must rise", "64, 32, 99"]),
        ([MODEL, "--target", "t4", "--optimization", "9"], ["optimization_level", "0 to 5"]),
        ([MODEL, "--target", "t4", "--tiling", "most"], ["tiling", "most"]),
        ([MODEL, "--target", "t4", "--l2-limit", "4"], ["l2_limit_mib", "tiling"]),
        ([MODEL, "--target", "t4", "--workspace", "0"], ["workspace_mib"]),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    refused(wdsr_edge("compile", *arguments, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())
