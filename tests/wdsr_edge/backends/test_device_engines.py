"""Engines for the GPU at hand, from the request of a shape to frames out of a simulated GPU."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT
from tests.wdsr_edge.backends.test_audit import CONVS, dump
from wdsr_edge import BackendError, Bundle, InputError
from wdsr_edge.backends._cuda import Cuda
from wdsr_edge.backends.device_engines import DeviceEngines
from wdsr_edge.backends.engine_build import Built
from wdsr_edge.backends.engine_cache import EngineCache
from wdsr_edge.backends.engine_config import EngineConfig, Profile, Shape
from wdsr_edge.backends.tensorrt import TensorRtSession
from wdsr_edge.loading import ZOO

MODEL = ZOO / "wdsr-b-1x32-x2"
ONNX = Bundle.load(MODEL).onnx("fp16")


class Workshop:
    """Builds simulated engines; ``runs_in`` is what their layers say."""

    def __init__(self, runs_in: str = "Half") -> None:
        self.layers = dump("Datatype", dict.fromkeys(CONVS, runs_in))
        self.asked: list[tuple[EngineConfig, dict[str, Any]]] = []

    def __call__(self, library: str, onnx: bytes, config: EngineConfig, **options: Any) -> Built:
        self.asked.append((config, options))
        profiles = [[(*shape, 3) for shape in (p.least, p.best, p.most)] for p in config.profiles]
        engine = json.dumps({"onnx": str(MODEL / "fp32.onnx"), "scale": 2, "profiles": profiles}).encode()
        return Built(engine, self.layers, b"", 0.1)


def engines(folder: Path, build: Workshop, device: Device | None = None, **options: Any) -> DeviceEngines:
    device = device or Device(lambda n: n - 1)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    cache = EngineCache(folder)
    return DeviceEngines("tensorrt", trt, Cuda(0, device), ONNX, "fp16", cache=cache, build=build, **options)


def test_a_frame_goes_all_the_way(tmp_path: Path) -> None:
    device, build = Device(lambda n: n - 1), Workshop()
    trt: Any = SimulatedTensorRT("11.4.0", device)
    session = TensorRtSession("tensorrt", trt, Cuda(0, device), engines(tmp_path, build, device))
    lr, sr = Bundle.load(MODEL).golden()
    for batch, wanted in ((lr, sr), (lr[:20], None), (lr, sr)):
        found = session.run(batch[None])[0]
        if wanted is not None:
            assert np.abs(found.astype(int) - wanted).max() <= 1
    assert [config.profiles for config, _ in build.asked] == [
        (Profile.static(*lr.shape[:2]),),
        (Profile.static(20, lr.shape[1]),),
    ]
    session.close()


def test_what_the_cache_has_is_not_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build = Workshop()
    with caplog.at_level(logging.INFO, "wdsr_edge"):
        first = engines(tmp_path, build)((1, 8, 9, 3))
        second = engines(tmp_path, build)((1, 8, 9, 3))
    assert first == second
    assert len(build.asked) == 1
    assert caplog.messages == ["built an engine for 9x8 in fp16: it was not built here before"]


def test_planar_frames_have_their_sides_last(tmp_path: Path) -> None:
    build = Workshop()
    engines(tmp_path, build)((1, 3, 8, 9))
    assert build.asked[0][0].profiles == (Profile.static(8, 9),)


def test_a_profile_that_takes_the_shape_is_used_for_it(tmp_path: Path) -> None:
    build = Workshop()
    profile = Profile(Shape(1, 4, 4), Shape(1, 8, 8), Shape(1, 16, 16))
    ask = engines(tmp_path, build, config=EngineConfig((profile,), optimization_level=5))
    assert ask((1, 5, 5, 3)) == ask((1, 16, 4, 3))
    ask((1, 17, 4, 3))
    assert [(config.profiles, config.optimization_level) for config, _ in build.asked] == [
        ((profile,), 5),
        ((Profile.static(17, 4),), 5),
    ]


def test_an_engine_in_another_precision_is_refused_each_time(tmp_path: Path) -> None:
    build = Workshop("Float")
    ask = engines(tmp_path, build)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"6 of 6 convolutions .* \(head asked for fp16 and runs in fp32\)"):
            ask((1, 8, 9, 3))
    assert len(build.asked) == 1


def test_options_that_the_library_has_not_are_refused_before_a_frame(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compiles for the GPU at hand only"):
        engines(tmp_path, Workshop(), config=EngineConfig((Profile.static(8, 8),), sm=(89,)))
