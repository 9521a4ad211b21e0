"""ONNX Runtime's GPU providers: right frames from memory that is kept, and nothing on the CPU in silence."""

from __future__ import annotations

import contextlib
import gc
import os
import stat
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

onnxruntime = pytest.importorskip("onnxruntime")

import onnx  # noqa: E402

from tests.simulated_onnxruntime import CPU, CUDA, TENSORRT, OnnxRuntime  # noqa: E402
from wdsr_edge import BackendError, Bundle, InputError, MissingExtraError, load  # noqa: E402
from wdsr_edge.backends.onnxruntime import OnnxRuntimeSession  # noqa: E402
from wdsr_edge.backends.onnxruntime_gpu import SHAPES, OnnxRuntimeGpuSession, Provider  # noqa: E402
from wdsr_edge.images.samples import sample_frames  # noqa: E402
from wdsr_edge.loading import ZOO  # noqa: E402

BUNDLE = Bundle.load(ZOO / "wdsr-b-1x32-x2")
GRAPH = BUNDLE.onnx("fp32")
PHOTO = sample_frames()["chelsea.png"]
BOTH: tuple[Provider, ...] = ("cuda", "tensorrt")
NAMES = {"cuda": CUDA, "tensorrt": TENSORRT}


@contextlib.contextmanager
def simulated(**behaviour: Any) -> Iterator[OnnxRuntime]:
    """Instead of the installed onnxruntime."""
    with pytest.MonkeyPatch.context() as patch:
        ort = OnnxRuntime(**behaviour)
        patch.setitem(sys.modules, "onnxruntime", ort)
        yield ort


@pytest.fixture
def ort() -> Iterator[OnnxRuntime]:
    with simulated() as ort:
        yield ort


@pytest.fixture(scope="module")
def on_cpu() -> OnnxRuntimeSession:
    return OnnxRuntimeSession(GRAPH)


def frame(height: int, width: int, start: int = 0) -> NDArray[np.uint8]:
    return np.ascontiguousarray(PHOTO[None, start : start + height, :width])


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(BackendError) as caught:
        OnnxRuntimeGpuSession(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is installed")
def test_the_package_for_the_cpu_is_refused(provider: Provider) -> None:
    text = refusal(GRAPH, provider)
    assert (
        f"with {NAMES[provider]} (it did not load): the onnxruntime that is installed has none: pip uninstall" in text
    )
    assert text.endswith("then pip install 'wdsr-edge[onnxruntime-gpu]'")


@pytest.mark.parametrize("provider", BOTH)
@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is installed")
def test_the_package_for_the_cpu_will_do_if_that_is_allowed(
    provider: Provider, on_cpu: OnnxRuntimeSession, caplog: pytest.LogCaptureFixture
) -> None:
    session = OnnxRuntimeGpuSession(GRAPH, provider, allow_cpu=True)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("wdsr_edge", "WARNING")
    assert f"does not run the graph with {NAMES[provider]} (it did not load) but with {CPU}: the onnx" in record.message
    np.testing.assert_array_equal(session.run(frame(20, 30)), on_cpu.run(frame(20, 30)))
    session.close()


def test_no_package_at_all_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wdsr-edge\[onnxruntime-gpu\]'"):
        OnnxRuntimeGpuSession(GRAPH, "cuda")


@pytest.mark.parametrize("provider", BOTH)
def test_shapes_in_turn_use_memory_that_is_set_aside_once(
    ort: OnnxRuntime, on_cpu: OnnxRuntimeSession, provider: Provider
) -> None:
    session = OnnxRuntimeGpuSession(GRAPH, provider)
    batches = [frame(20, 30), frame(30, 20), np.concatenate([frame(20, 30), frame(20, 30, 9)])]
    for start in range(3):
        for batch in batches:
            moved = np.roll(batch, start, axis=2)
            np.testing.assert_array_equal(session.run(moved), on_cpu.run(moved))
    shapes = [shape for n, h, w, c in map(np.shape, batches) for shape in ((n, h, w, c), (n, 2 * h, 2 * w, c))]
    assert ort.allocated == shapes
    assert ort.sessions[0].plain_runs == 0
    assert not ort.sends_telemetry


def test_float_graphs_are_planar() -> None:
    graph = BUNDLE.onnx("fp32", "float32")
    batch = np.ascontiguousarray(frame(20, 30).transpose(0, 3, 1, 2), np.float32) / 255
    with simulated() as ort:
        sr = OnnxRuntimeGpuSession(graph, "cuda").run(batch)
    np.testing.assert_array_equal(sr, OnnxRuntimeSession(graph).run(batch))
    assert ort.allocated == [(1, 3, 20, 30), (1, 3, 40, 60)]


def test_a_batch_that_is_not_contiguous_is_one_all_the_same(ort: OnnxRuntime, on_cpu: OnnxRuntimeSession) -> None:
    mirrored = frame(20, 30)[:, :, ::-1]
    found = OnnxRuntimeGpuSession(GRAPH, "cuda").run(mirrored)
    np.testing.assert_array_equal(found, on_cpu.run(np.ascontiguousarray(mirrored)))


@pytest.mark.parametrize("scale", ["", "two", None])
def test_a_graph_that_does_not_tell_its_scale_runs(
    ort: OnnxRuntime, on_cpu: OnnxRuntimeSession, scale: str | None
) -> None:
    model = onnx.load_from_string(GRAPH)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != "wdsr_edge.scale"}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept if scale is None else {**kept, "wdsr_edge.scale": scale})
    session = OnnxRuntimeGpuSession(model.SerializeToString(), "cuda")
    for start in range(3):
        np.testing.assert_array_equal(session.run(frame(20, 30, start)), on_cpu.run(frame(20, 30, start)))
    assert ort.allocated == [(1, 20, 30, 3)], "ONNX Runtime sets the output's aside"


def test_the_longest_unused_shape_goes_first(ort: OnnxRuntime, on_cpu: OnnxRuntimeSession) -> None:
    session = OnnxRuntimeGpuSession(GRAPH, "cuda")
    for height in range(10, 10 + SHAPES):
        session.run(frame(height, 16))
    session.run(frame(10, 16))
    session.run(frame(30, 16))
    before = len(ort.allocated)
    gc.collect()
    assert sorted(value.array.shape[1] for value in ort.live) == sorted(
        size for height in (10, 12, 13, 30) for size in (height, 2 * height)
    )
    np.testing.assert_array_equal(session.run(frame(10, 16, 5)), on_cpu.run(frame(10, 16, 5)))
    assert len(ort.allocated) == before
    np.testing.assert_array_equal(session.run(frame(11, 16)), on_cpu.run(frame(11, 16)))
    assert len(ort.allocated) == before + 2


def test_a_result_belongs_to_the_caller(ort: OnnxRuntime) -> None:
    session = OnnxRuntimeGpuSession(GRAPH, "cuda")
    first = session.run(frame(20, 30))
    kept = first.copy()
    second = session.run(255 - frame(20, 30))
    np.testing.assert_array_equal(first, kept)
    assert not any(np.shares_memory(first, other) for other in (second, *(value.array for value in ort.live)))
    first[:] = 0
    np.testing.assert_array_equal(session.run(frame(20, 30)), kept)


def test_threads_that_share_a_session_get_their_own_frames(ort: OnnxRuntime, on_cpu: OnnxRuntimeSession) -> None:
    session = OnnxRuntimeGpuSession(GRAPH, "cuda")
    batches = [np.roll(frame(60 + 20 * (i % 2), 80), i, axis=2) for i in range(24)]
    expected = [on_cpu.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(session.run, batches), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert len(ort.allocated) == 4, "input and output of two shapes"


def test_closing_frees_the_memory_and_the_graph(ort: OnnxRuntime) -> None:
    session = OnnxRuntimeGpuSession(GRAPH, "cuda")
    session.run(frame(20, 30))
    graph = weakref.ref(ort.sessions.pop())
    session.close()
    gc.collect()
    assert (list(ort.live), graph()) == ([], None)
    session.close()


@pytest.mark.usefixtures("ort")
def test_a_forked_child_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a thread of the parent held the lock."""
    freed: list[object] = []
    monkeypatch.setattr("wdsr_edge.backends.onnxruntime_gpu.never_free", freed.append)  # CUDA would not free it there
    session = OnnxRuntimeGpuSession(GRAPH, "cuda")
    session.run(frame(20, 30))
    session._lock.acquire()
    session.leave()
    with pytest.raises(BackendError, match="a forked process cannot use the GPU"):
        session.run(frame(20, 30))
    session.close()
    assert len(freed) == 1


@pytest.mark.parametrize("provider", BOTH)
def test_a_provider_that_vanishes_in_silence_is_refused(provider: Provider) -> None:
    with simulated(silent=(CUDA, TENSORRT)):
        text = refusal(GRAPH, provider)
    assert text.startswith(f"ONNX Runtime does not run the graph with {NAMES[provider]} (")
    assert "an NVIDIA driver, CUDA" in text


def test_the_library_that_is_missing_is_named_and_nothing_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with simulated(silent=(CUDA,)):
        assert "(Failed to load libcublasLt.so.13: cannot open shared object file): if" in refusal(GRAPH, "cuda")
    assert capsys.readouterr().out == ""


def test_a_provider_that_refuses_aloud_is_one_line() -> None:
    with simulated(refused=(TENSORRT,)):
        text = refusal(GRAPH, "tensorrt")
    assert "(Please install its libraries as mentioned in the requirements): if the graph is in order, see" in text


def test_what_cuda_says_comes_without_the_name_of_the_machine() -> None:
    said = (
        "/src/cuda_call.cc:154 void f(int) CUDA failure 100: no device ; GPU=0 ; hostname=mine ; file=/src/a.cc ;\n\n"
    )
    with simulated(refused=(CUDA,), refusal=said):
        assert "with CUDAExecutionProvider (CUDA failure 100: no device): if" in refusal(GRAPH, "cuda")


@pytest.mark.parametrize(
    ("provider", "behaviour", "runs_with"),
    [
        ("cuda", {"silent": (CUDA,)}, CPU),
        ("cuda", {"refused": (CUDA,)}, CPU),
        ("cuda", {"available": (CPU,)}, CPU),
        ("tensorrt", {"silent": (CUDA, TENSORRT)}, CPU),
        ("tensorrt", {"refused": (CUDA, TENSORRT)}, CPU),
        ("tensorrt", {"refused": (TENSORRT,)}, CUDA),
        ("tensorrt", {"silent": (TENSORRT,)}, CUDA),
        ("tensorrt", {"available": (CUDA, CPU)}, CUDA),
    ],
)
def test_what_does_not_load_is_a_warning_if_the_cpu_is_allowed(
    provider: Provider,
    behaviour: dict[str, Any],
    runs_with: str,
    on_cpu: OnnxRuntimeSession,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with simulated(**behaviour) as ort:
        session = OnnxRuntimeGpuSession(GRAPH, provider, allow_cpu=True)
        np.testing.assert_array_equal(session.run(frame(20, 30)), on_cpu.run(frame(20, 30)))
    (record,) = caplog.records
    assert f"does not run the graph with {NAMES[provider]}" in record.message
    advice = "the onnxruntime that is installed has none" if "available" in behaviour else "if the graph is in order"
    assert f" but with {runs_with}: {advice}" in record.message
    assert "\n" not in record.message
    assert ort.sessions[-1].plain_runs == (runs_with == CPU)


@pytest.mark.parametrize("provider", BOTH)
def test_what_loads_is_no_warning(ort: OnnxRuntime, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    for allow_cpu in (False, True):
        session = OnnxRuntimeGpuSession(GRAPH, provider, allow_cpu=allow_cpu)
        session.run(frame(9, 8))
        assert ort.sessions[-1].plain_runs == 0
    assert not caplog.records


@pytest.mark.parametrize("provider", BOTH)
def test_nodes_that_are_left_to_the_cpu_are_refused_unless_that_is_allowed(provider: Provider) -> None:
    with simulated(left_to_cpu=[("body.0.branch.0", "Conv"), ("tail", "Conv")]):
        text = refusal(GRAPH, provider)
        assert ("leaves body.0.branch.0, tail to the CPU" if provider == "cuda" else "default CPU EP") in text
        OnnxRuntimeGpuSession(GRAPH, provider, allow_cpu=True).run(frame(9, 8))


def test_a_release_that_does_not_tell_where_nodes_run_is_refused_unless_the_cpu_is_allowed(
    on_cpu: OnnxRuntimeSession,
) -> None:
    """With TensorRT a setting of the session refuses the CPU, also in older releases."""
    with simulated(tells_placement=False):
        with pytest.raises(BackendError, match=r"does not tell what it leaves to the CPU: update it to 1\.24 or later"):
            OnnxRuntimeGpuSession(GRAPH, "cuda")
        OnnxRuntimeGpuSession(GRAPH, "tensorrt").close()
        session = OnnxRuntimeGpuSession(GRAPH, "cuda", allow_cpu=True)
        np.testing.assert_array_equal(session.run(frame(20, 30)), on_cpu.run(frame(20, 30)))


def test_what_the_cuda_provider_is_given() -> None:
    with simulated(device=2) as ort:
        OnnxRuntimeGpuSession(GRAPH, "cuda", device=2).run(frame(9, 8))
    assert ort.sessions[0].asked == {
        CUDA: {
            "device_id": 2,
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
        }
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_the_tensorrt_provider_is_given(tmp_path: Path, precision: Any) -> None:
    """Never a precision: with ``trt_fp16_enable`` or ``trt_int8_enable`` the graph's types would be hints."""
    with simulated(device=1) as ort:
        OnnxRuntimeGpuSession(BUNDLE.onnx(precision), "tensorrt", device=1, cache_dir=tmp_path).run(frame(9, 8))
    ((name, options),) = ort.sessions[0].asked.items()
    engines = Path(options.pop("trt_engine_cache_path"))
    assert name == TENSORRT
    assert options == {
        "device_id": 1,
        "trt_engine_cache_enable": True,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(tmp_path / "onnxruntime-tensorrt"),
    }
    assert engines.parent == tmp_path / "onnxruntime-tensorrt"


def test_below_tensorrt_there_is_cuda_only_if_the_cpu_is_allowed(ort: OnnxRuntime) -> None:
    OnnxRuntimeGpuSession(GRAPH, "tensorrt")
    OnnxRuntimeGpuSession(GRAPH, "tensorrt", allow_cpu=True)
    assert [list(session.asked) for session in ort.sessions] == [[TENSORRT], [TENSORRT, CUDA, CPU]]
    assert [session.settings.get("session.disable_cpu_ep_fallback") for session in ort.sessions] == ["1", None]


@pytest.mark.parametrize(("provider", "weights_are_folded"), [("cuda", True), ("tensorrt", False)])
def test_int8_graphs_keep_their_biases_and_tensorrt_their_weights(
    ort: OnnxRuntime, tmp_path: Path, provider: Provider, weights_are_folded: bool
) -> None:
    """What the real optimiser makes of the graph before it is handed to the provider."""
    graph = BUNDLE.onnx("int8")
    OnnxRuntimeGpuSession(graph, provider)
    options = onnxruntime.SessionOptions()
    for key, value in ort.sessions[0].settings.items():
        if key != "session.disable_cpu_ep_fallback":
            options.add_session_config_entry(key, value)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=[CPU])
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    made = [node.name for node in nodes if node.op_type == "DequantizeLinear"]
    assert not [name for name in made if "bias" in name]
    assert (not [name for name in made if name.endswith(".weight_dq")]) == weights_are_folded


def test_engines_lie_in_private_folders_one_for_each_graph(ort: OnnxRuntime, tmp_path: Path) -> None:
    for graph in (GRAPH, BUNDLE.onnx("fp16"), GRAPH):
        OnnxRuntimeGpuSession(graph, "tensorrt", cache_dir=tmp_path / "new")
    folders = [Path(session.asked[TENSORRT]["trt_engine_cache_path"]) for session in ort.sessions]
    assert folders[0] == folders[2] != folders[1]
    for folder in (*folders, tmp_path / "new" / "onnxruntime-tensorrt"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_engines_lie_in_the_users_cache_by_default(
    ort: OnnxRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    OnnxRuntimeGpuSession(GRAPH, "tensorrt")
    folder = Path(ort.sessions[0].asked[TENSORRT]["trt_engine_cache_path"])
    assert folder.parent == tmp_path / "wdsr-edge" / "onnxruntime-tensorrt"


@pytest.mark.parametrize("inside", ["", "models"])
def test_what_others_may_have_put_there_is_not_loaded(ort: OnnxRuntime, tmp_path: Path, inside: str) -> None:
    folder = tmp_path / "onnxruntime-tensorrt"
    OnnxRuntimeGpuSession(GRAPH, "tensorrt", cache_dir=tmp_path)
    open_to_all = next(folder.iterdir()) if inside else folder
    (open_to_all / "planted.engine").touch()
    open_to_all.chmod(0o777)
    with pytest.raises(InputError, match=r"others can write to .*: remove what is in it"):
        OnnxRuntimeGpuSession(GRAPH, "tensorrt", cache_dir=tmp_path)


def test_a_folder_of_somebody_else_is_refused(
    ort: OnnxRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(InputError, match="belongs to another user"):
        OnnxRuntimeGpuSession(GRAPH, "tensorrt", cache_dir=tmp_path)
    OnnxRuntimeGpuSession(GRAPH, "cuda", cache_dir=tmp_path)


@pytest.mark.parametrize("provider", BOTH)
def test_a_graph_that_is_none_is_one_line(ort: OnnxRuntime, provider: Provider) -> None:
    assert "does not run the graph" in refusal(b"no graph at all" * 9, provider)


@pytest.mark.parametrize(
    "batch",
    [frame(9, 8)[:, :, :, :2], frame(9, 8)[0], frame(9, 8).astype(np.float32)],
    ids=["channels", "rank", "dtype"],
)
def test_a_batch_that_does_not_fit_is_one_line_and_leaves_nothing(
    ort: OnnxRuntime, on_cpu: OnnxRuntimeSession, batch: NDArray[Any]
) -> None:
    session = OnnxRuntimeGpuSession(GRAPH, "cuda")
    session.run(frame(9, 8))
    before = set(ort.live)
    with pytest.raises(BackendError) as caught:
        session.run(batch)
    assert str(caught.value).startswith(f"ONNX Runtime failed on {batch.shape}: ")
    assert str(caught.value).endswith(": if it stays, see what wdsr-edge doctor says")
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
    assert set(ort.live) == before
    np.testing.assert_array_equal(session.run(frame(9, 8)), on_cpu.run(frame(9, 8)))


def test_full_memory_is_one_line_and_a_smaller_frame_goes(on_cpu: OnnxRuntimeSession) -> None:
    with simulated(room=100_000):
        session = OnnxRuntimeGpuSession(GRAPH, "cuda")
        with pytest.raises(BackendError) as caught:
            session.run(frame(200, 200))
        text = str(caught.value)
        assert "): Failed to allocate memory for a buffer of size 120000: if the GPU's memory is full, use" in text
        assert "\n" not in text
        np.testing.assert_array_equal(session.run(frame(20, 30)), on_cpu.run(frame(20, 30)))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU that has these backends alone."""
    found = ["onnxruntime-cuda", "onnxruntime-tensorrt"]
    for module in ("wdsr_edge.backends.registry", "wdsr_edge.choices", "wdsr_edge.loading"):
        monkeypatch.setattr(f"{module}.installed", lambda: found)
    monkeypatch.setattr("wdsr_edge.choices.version", lambda backend: "1.31.1")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_load_takes_it_and_the_camera_its_frames(ort: OnnxRuntime, backend: Any, on_cpu: OnnxRuntimeSession) -> None:
    with load(BUNDLE.path, backend=backend, precision="fp32") as sr:
        assert (sr.backend, sr.precision) == (backend, "fp32")
        np.testing.assert_array_equal(sr(frame(30, 40)[0]), on_cpu.run(frame(30, 40))[0])


@pytest.mark.usefixtures("installed")
def test_cuda_is_proven_on_the_golden_frame_when_it_is_opened(
    ort: OnnxRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What spoils FP16 alone leaves FP32; a refusal opens nothing else."""
    real = OnnxRuntimeGpuSession.run

    def spoilt(session: OnnxRuntimeGpuSession, batch: NDArray[Any]) -> NDArray[Any]:
        sr = real(session, batch)
        return sr ^ np.uint8(8) if session in spoil else sr

    spoil: list[OnnxRuntimeGpuSession] = []
    made = OnnxRuntimeGpuSession.__init__

    def init(session: OnnxRuntimeGpuSession, onnx: bytes, *arguments: Any, **options: Any) -> None:
        made(session, onnx, *arguments, **options)
        if onnx != GRAPH:
            spoil.append(session)

    monkeypatch.setattr(OnnxRuntimeGpuSession, "run", spoilt)
    monkeypatch.setattr(OnnxRuntimeGpuSession, "__init__", init)
    with pytest.raises(BackendError, match=r"the fp16 engine is refused: .* on this GPU: name another one$"):
        load(BUNDLE.path, backend="onnxruntime-cuda", precision="fp16")
    assert len(spoil) == 1
    load(BUNDLE.path, backend="onnxruntime-cuda", precision="fp32").close()
