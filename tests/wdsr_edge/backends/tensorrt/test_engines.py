"""Engines for the GPU at hand, from the request of a shape to frames out of a simulated GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT
from tests.wdsr_edge.backends.tensorrt.test_audit import CONVS, dump
from wdsr_edge import BackendError, Bundle, BundleError, InputError
from wdsr_edge.backends.options import EngineReport, GpuOptions
from wdsr_edge.backends.tensorrt import engines as device_engines
from wdsr_edge.backends.tensorrt.build import Built
from wdsr_edge.backends.tensorrt.cache import Builder, EngineCache
from wdsr_edge.backends.tensorrt.config import EngineConfig, Library, Profile, Shape
from wdsr_edge.backends.tensorrt.cuda import Cuda
from wdsr_edge.backends.tensorrt.engines import DeviceEngines, VouchedEngine, builder_of, open_device_session
from wdsr_edge.backends.tensorrt.session import TensorRtSession
from wdsr_edge.loading import ZOO

MODEL = ZOO / "wdsr-b-1x32-x2"
ONNX = Bundle.load(MODEL).onnx("fp16")


class Workshop:
    """Builds simulated engines; ``runs_in`` is what their layers say."""

    lighter = ""

    def __init__(self, runs_in: str = "Half") -> None:
        self.layers = dump("Datatype", dict.fromkeys(CONVS, runs_in))
        self.asked: list[tuple[EngineConfig, dict[str, Any]]] = []

    def __call__(self, library: str, onnx: bytes, config: EngineConfig, **options: Any) -> Built:
        self.asked.append((config, options))
        profiles = [[(*shape, 3) for shape in (p.least, p.best, p.most)] for p in config.profiles]
        engine = json.dumps({"onnx": str(MODEL / "fp32.onnx"), "scale": 2, "profiles": profiles}).encode()
        return Built(engine, self.layers, b"measured", 0.1, self.lighter)


def engines(
    folder: Path,
    build: Workshop,
    device: Device | None = None,
    config: EngineConfig | None = None,
    onnx: bytes = ONNX,
    **options: Any,
) -> DeviceEngines:
    device = device or Device(lambda n: n - 1)
    trt: Any = SimulatedTensorRT("11.4.0", device)
    known = {field.name for field in dataclasses.fields(GpuOptions)}
    gpu = GpuOptions(
        options.pop("number", 0), config=config, **{name: options.pop(name) for name in known & options.keys()}
    )
    cache, precision = EngineCache(folder), options.pop("precision", "fp16")
    cuda = Cuda(gpu.device, device)
    return DeviceEngines("tensorrt", trt, cuda, onnx, precision, cache=cache, gpu=gpu, build=build, **options)


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
    assert first.data == second.data
    assert len(build.asked) == 1
    assert caplog.messages == [
        "building a tensorrt engine for 9x8 in fp16, which may take minutes, once",
        "built the tensorrt engine for 9x8 in fp16 in 0.1 s: it was not built here before",
    ]


def test_planar_frames_have_their_sides_last(tmp_path: Path) -> None:
    build = Workshop("Float")
    build.layers = dump("Datatype", dict.fromkeys(CONVS, "Float"))
    floats = Bundle.load(MODEL).onnx("fp32", "float32")
    engines(tmp_path, build, onnx=floats, precision="fp32")((1, 3, 8, 3))
    assert build.asked[0][0].profiles == (Profile.static(8, 3),)


def test_a_profile_that_takes_the_shape_is_used_for_it(tmp_path: Path) -> None:
    build = Workshop()
    profile = Profile(Shape(1, 4, 4), Shape(1, 8, 8), Shape(1, 16, 16))
    ask = engines(tmp_path, build, config=EngineConfig((profile,), optimization_level=5))
    assert ask((1, 5, 5, 3)).data == ask((1, 16, 4, 3)).data
    ask((1, 17, 4, 3))
    assert [(config.profiles, config.optimization_level) for config, _ in build.asked] == [
        ((profile,), 5),
        ((Profile.static(17, 4),), 5),
    ]


def test_what_was_compiled_before_is_what_load_takes(tmp_path: Path) -> None:
    """An engine for the shape alone before one for a range, the more optimised first; others are none of ours."""
    build = Workshop()
    wide = EngineConfig((Profile(Shape(1, 4, 4), Shape(1, 8, 8), Shape(1, 16, 16)),), optimization_level=5)
    engines(tmp_path, build, config=wide)((1, 8, 8, 3))
    ask = engines(tmp_path, build)
    assert (json.loads(ask((1, 9, 8, 3)).data)["profiles"][0][0], len(build.asked)) == ([1, 4, 4, 3], 1)
    for level in (4, 3):
        fixed = EngineConfig((Profile.static(9, 8),), optimization_level=level)
        engines(tmp_path, build, config=fixed)((1, 9, 8, 3))
    assert json.loads(ask((1, 9, 8, 3)).data)["profiles"][0][0] == [1, 9, 8, 3]
    (again,) = engines(tmp_path, build)._cache.configs(ONNX, "fp16", ask._builder)[-1:]
    assert (again.optimization_level, len(build.asked)) == (4, 3)


def test_an_engine_in_another_precision_is_refused_each_time(tmp_path: Path) -> None:
    build = Workshop("Float")
    ask = engines(tmp_path, build)
    for _ in range(2):
        with pytest.raises(
            BackendError, match=r"its 6 convolutions .* \(head asked for fp16 and runs in fp32 and 5 more\): choose"
        ):
            ask((1, 8, 9, 3))
    assert len(build.asked) == 1


def test_options_that_the_library_has_not_are_refused_before_a_frame(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compiles for the GPU at hand only"):
        engines(tmp_path, Workshop(), config=EngineConfig((Profile.static(8, 8),), sm=(89,)))


def test_a_graph_in_another_precision_is_refused_before_a_frame(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no convolution of the int8 graph asks for int8"):
        engines(tmp_path, Workshop(), precision="int8")


def test_a_build_is_told_which_gpu_it_is_for_and_tells_how_far_it_is(tmp_path: Path) -> None:
    build, reports = Workshop(), []
    gpus = Device(lambda n: n - 1, devices=2)
    progress = {"on_progress": lambda *report: reports.append(report)}
    for shape in ((1, 8, 9, 3), (1, 4, 4, 3)):
        engines(tmp_path, build, gpus, number=1, **progress)(shape)
    assert [options["device"] for _, options in build.asked] == [1, 1]
    assert [options["timing_cache"] for _, options in build.asked] == [b"", b"measured"]
    build.asked[0][1]["on_progress"]("Building", 1, 2)
    assert reports == [("Building", 1, 2)]


def test_an_engine_that_does_not_load_any_more_is_built_again_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, build = Device(lambda n: n - 1), Workshop()
    engines(tmp_path, build, device)((1, 8, 9, 3))
    trt: Any = SimulatedTensorRT("11.4.0", device)
    session = TensorRtSession("tensorrt", trt, Cuda(0, device), engines(tmp_path, build, device))

    def once() -> None:
        trt.refuse = "deserialize_cuda_engine" if len(build.asked) == 1 else ""

    trt.before["deserialize_cuda_engine"] = once
    session.run(np.zeros((1, 8, 9, 3), np.uint8))
    assert len(build.asked) == 2
    words = "does not load any more (deserialize_cuda_engine: refused): it is built again"
    assert f"the tensorrt engine for 9x8 in fp16 in the cache {words}" in caplog.text
    del trt.before["deserialize_cuda_engine"]
    trt.refuse = "deserialize_cuda_engine"
    with pytest.raises(BackendError, match="the engine cannot be loaded"):
        session.run(np.zeros((1, 8, 8, 3), np.uint8))
    assert len(build.asked) == 3, "one that was built just now is not"
    monkeypatch.setattr(EngineCache, "forget", lambda cache, cached: None)
    with pytest.raises(BackendError, match="the engine cannot be loaded"):
        session.run(np.zeros((1, 8, 8, 3), np.uint8))
    assert len(build.asked) == 3, "one that cannot be removed is not either"
    session.close()


def test_an_engine_is_proven_once_on_a_gpu(tmp_path: Path) -> None:
    tested: list[tuple[int, ...]] = []
    reports: list[EngineReport] = []

    def self_test(run: Any, shape: tuple[int, ...]) -> float | None:
        tested.append(shape)
        return None if shape[1] < 8 else 61.5

    shapes = ((1, 8, 9, 3), (1, 4, 4, 3))
    for _ in range(2):
        ask = engines(tmp_path, Workshop(), self_test=self_test, on_report=reports.append)
        for shape in (*shapes, *shapes):
            ask(shape).prove(lambda batch: batch)
    assert tested == 2 * [*shapes, shapes[1]], "in each process; what is too small tells nothing"
    assert [report.golden_db for report in reports] == [61.5, None] * 4
    assert [bool(report.built) for report in reports] == [True, True, *6 * [False]]
    assert [report.seconds for report in reports] == [0.1] * 8
    assert reports[0].audit.convolutions == 6


def test_an_engine_that_is_built_again_is_proven_again(tmp_path: Path) -> None:
    tested: list[tuple[int, ...]] = []

    def self_test(run: Any, shape: tuple[int, ...]) -> float | None:
        tested.append(shape)
        return 61.5

    ask = engines(tmp_path, Workshop(), self_test=self_test)
    for renew in (False, True, False):
        plan = ask((1, 8, 9, 3))
        plan.prove(lambda batch: batch)
        if renew:
            assert plan.renew("it is stale")
    assert len(tested) == 2


def test_an_engine_that_is_refused_is_not_proven(tmp_path: Path) -> None:
    def self_test(run: Any, shape: tuple[int, ...]) -> float | None:
        tested.append(shape)
        raise BackendError("refused")

    tested: list[tuple[int, ...]] = []
    for _ in range(2):
        with pytest.raises(BackendError, match="refused"):
            engines(tmp_path, Workshop(), self_test=self_test)((1, 8, 9, 3)).prove(lambda batch: batch)
    assert len(tested) == 2


def test_an_engine_that_was_built_with_less_says_so_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build = Workshop()
    build.lighter = "the build was killed"
    for _ in range(2):
        caplog.clear()
        engines(tmp_path, build)((1, 8, 9, 3))
        assert "was built with less, as at first the build was killed: wdsr-edge compile tries again" in caplog.text
    build.lighter = ""
    reports: list[EngineReport] = []
    engines(tmp_path, build, in_full=True, on_report=reports.append)((1, 8, 9, 3)).prove(lambda batch: batch)
    assert (reports[0].built, reports[0].lighter) == ("it was built with less, as at first the build was killed", "")


def vouched(path: Path, **options: Any) -> VouchedEngine:
    trt: Any = SimulatedTensorRT("11.4.0", Device(lambda n: n - 1))
    return VouchedEngine(path, "tensorrt", trt, ONNX, **options)


def test_an_engine_that_the_caller_vouches_for_must_fit_what_is_known_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    with pytest.raises(InputError, match=r"engine .*x.engine' cannot be read: No such file"):
        vouched(path)
    with pytest.raises(InputError, match="cannot be read: embedded null byte"):
        vouched(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe.engine")
    with pytest.raises(InputError, match="cannot be read: it is a pipe or a device"):
        vouched(tmp_path / "pipe.engine")
    path.write_bytes(b"native code")
    assert vouched(path)((1, 8, 9, 3)).data == b"native code"
    good = {
        "onnx_sha256": hashlib.sha256(ONNX).hexdigest(),
        "library": "tensorrt 11.4.0",
        "sha256": hashlib.sha256(b"native code").hexdigest(),
        "faults": [],
    }
    beside = tmp_path / "x.json"
    for key, words in (("onnx_sha256", "another model"), ("library", "another library"), ("sha256", "another engine")):
        beside.write_text(json.dumps({**good, key: "0"}))
        with pytest.raises(InputError, match=words):
            vouched(path)
    beside.unlink()
    for endless in (lambda: os.mkfifo(beside), lambda: beside.symlink_to("/dev/zero")):
        endless()
        vouched(path)
        beside.unlink()
    beside.write_text(json.dumps({"onnx_sha256": "a\nb\x1b" + 5000 * "z"}))
    with pytest.raises(InputError, match=r"another model") as caught:
        vouched(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    for text in (json.dumps(good), "[]", "{", "\xff", 9_000_000 * " " + json.dumps({"sha256": "0"})):
        beside.write_text(text)
        vouched(path)
    tested: list[tuple[int, ...]] = []

    def self_test(run: Any, shape: tuple[int, ...]) -> float | None:
        tested.append(shape)
        return None

    vouched(path, self_test=self_test)((1, 8, 9, 3)).prove(lambda batch: batch)
    assert tested == [(1, 8, 9, 3)]


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_a_session_is_on_the_gpu_that_was_asked_for(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = Device(lambda n: n - 1, devices=2)
    release = "rtx-1.7.1" if library == "tensorrt-rtx" else "11.4.0"
    trt: Any = SimulatedTensorRT(release, gpus)
    monkeypatch.setattr(device_engines, "open_library", lambda name: {library: trt}[name])
    monkeypatch.setattr(device_engines, "Cuda", lambda device: Cuda(device, gpus))
    session = open_device_session(library, ONNX, "fp16", GpuOptions(1, cache_dir=tmp_path))
    builder = Builder(library, release.removeprefix("rtx-"), "Simulated GPU 1", 97)
    assert builder_of(library, trt, session._cuda) == builder
    kernels = EngineCache(tmp_path).kernels(builder)
    assert session._engines._kernels_file == (kernels if library == "tensorrt-rtx" else None)
    assert gpus.gpu == 1
    session.close()


def test_each_profile_is_audited(tmp_path: Path) -> None:
    config = EngineConfig((Profile.static(8, 9), Profile.static(9, 8)))
    with pytest.raises(BackendError, match="head asked for fp16 and runs in a layer that is not told of"):
        engines(tmp_path, Workshop(), config=config)((1, 8, 9, 3))


def test_a_batch_has_an_engine_of_its_own(tmp_path: Path) -> None:
    build = Workshop()
    engines(tmp_path, build)((2, 8, 9, 3))
    assert build.asked[0][0].profiles == (Profile.static(8, 9, 2),)
