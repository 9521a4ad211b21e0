"""Targets: each has a file, each file is complete."""

from __future__ import annotations

import shlex

import pytest

from wdsr_edge import InputError
from wdsr_edge.backends.tensorrt.config import EngineConfig, Profile, Shape
from wdsr_edge.backends.tensorrt.targets import compile_line, find_target, target_names, trtexec_line

CAMERA = Profile.static(270, 480)


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_complete(name: str) -> None:
    target = find_target(name)
    assert target.name == name
    assert target.device
    assert 75 <= target.sm <= 130
    assert target.dla_cores == (2 if name in ("jetson-agx-orin", "jetson-orin-nx") else 0)
    assert (target.library == "tensorrt") == (target.sm in (87, 90, 110)), "TensorRT for RTX 1.7 has all the others"


@pytest.mark.parametrize("name", ["", "rtx", "../targets/t4", "rtx-4090.toml", "/etc/passwd"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"no target .*jetson-orin-nano.*rtx-4090"):
        find_target(name)


def test_the_command_for_a_device_says_the_same() -> None:
    profile = Profile(Shape(1, 64, 64), Shape(1, 270, 480), Shape(1, 720, 1280))
    config = EngineConfig((CAMERA, profile), workspace_mib=512, optimization_level=5, aux_streams=1)
    assert compile_line("a b/", ("fp16", "int8"), config) == (
        "wdsr-edge compile 'a b/' --backend tensorrt --precision fp16 --precision int8 --size 480x270 "
        "--profile 64x64,480x270,1280x720 --workspace 512 --optimization 5 --aux-streams 1"
    )


def test_the_line_for_trtexec_says_the_same() -> None:
    profile = Profile(Shape(1, 64, 64), Shape(1, 270, 480), Shape(2, 720, 1280))
    words = shlex.split(trtexec_line("a.onnx", "a.engine", EngineConfig((CAMERA, profile), workspace_mib=512)))
    assert words[0] == "trtexec"
    assert {"--onnx=a.onnx", "--saveEngine=a.engine", "--stronglyTyped", "--memPoolSize=workspace:512M"} <= set(words)
    first, second = words.index("--profile=0"), words.index("--profile=1")
    assert words[first + 1 : second] == [f"--{kind}Shapes=lr:1x270x480x3" for kind in ("min", "opt", "max")]
    assert words[second + 1 : second + 4] == [
        "--minShapes=lr:1x64x64x3",
        "--optShapes=lr:1x270x480x3",
        "--maxShapes=lr:2x720x1280x3",
    ]
    with pytest.raises(InputError, match="--tiling is not passed on"):
        trtexec_line("a.onnx", "a.engine", EngineConfig((CAMERA,), tiling="fast"))
    alone = shlex.split(trtexec_line("a.onnx", "a.engine", EngineConfig((CAMERA,), aux_streams=3, dla=1)))
    assert {"--useDLACore=1", "--allowGPUFallback", "--maxAuxStreams=3", "--optShapes=lr:1x270x480x3"} <= set(alone)
    assert not any(word.startswith("--profile=") for word in alone)
