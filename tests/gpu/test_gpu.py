"""On a real GPU: every model and precision, its frames, its order, its memory. Needs no torch, as a device has none.

``make test-gpu`` runs these. Without a GPU, or without anything that runs on it, they fail.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

import wdsr_edge
from wdsr_edge import BackendError, Bundle, SuperResolver
from wdsr_edge.backends import COMPILED, ON_CPU, Backend, installed
from wdsr_edge.backends.tensorrt.cuda import Cuda
from wdsr_edge.choices import Choice, choices
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.loading import find_bundle, zoo_names
from wdsr_edge.metrics import psnr

pytestmark = pytest.mark.gpu

MODEL = "wdsr-b-1x32-x2"
SIZE = (64, 96)
HERE: list[Backend] = [backend for backend in installed() if backend not in ON_CPU]
EVERY = [(name, choice) for name in zoo_names() for choice in choices(Bundle.load(find_bundle(name)))]
EVERY = [(name, choice) for name, choice in EVERY if choice.backend in HERE]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(params=[backend for backend in COMPILED if backend in HERE])
def sr(request: pytest.FixtureRequest, cache: Path) -> Iterator[SuperResolver]:
    with wdsr_edge.load(MODEL, backend=request.param, precision="fp16", cache_dir=cache) as made:
        yield made


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return psnr(found, wanted) > 50


def test_there_is_a_gpu_and_something_that_runs_on_it() -> None:
    assert HERE, "install an extra that runs on a GPU: make test-gpu GPU=tensorrt (tensorrt-rtx, jetson)"
    if {*HERE} & {*COMPILED}:
        assert Cuda().sm >= 75


@pytest.mark.parametrize(
    ("name", "choice"), EVERY, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_every_model_and_precision_reproduces_its_golden_frame(name: str, choice: Choice, cache: Path) -> None:
    """The self-test on the engine for the camera's size, and the golden frame through an engine of its own."""
    bundle = Bundle.load(find_bundle(name))
    lr, expected = bundle.golden()
    with wdsr_edge.load(name, backend=choice.backend, precision=choice.precision, cache_dir=cache) as made:
        assert made(frame_of_size(270, 480)).shape == (270 * made.scale, 480 * made.scale, 3)
        assert psnr(made(lr), expected) > {"fp32": 60, "fp16": 50, "int8": 40}[choice.precision]


def test_frames_of_many_sizes_come_back_right_and_in_order(sr: SuperResolver) -> None:
    random = Random(0)
    with wdsr_edge.load(MODEL, backend="onnxruntime", precision="fp32") as reference:
        sizes = [SIZE, SIZE[::-1], (32, 48)]
        waiting = []
        for _ in range(60):
            frame = np.roll(frame_of_size(*random.choice(sizes)), random.randrange(90), axis=1)
            waiting.append((sr.submit(frame), frame))
        for ticket, frame in waiting:
            assert close(ticket.result(), reference(frame))


def test_tiles_join_to_what_the_whole_frame_is(cache: Path, sr: SuperResolver) -> None:
    frame = frame_of_size(150, 200)
    with wdsr_edge.load(MODEL, backend=sr.backend, precision="fp16", cache_dir=cache, tile=48) as tiled:
        assert close(tiled(frame), sr(frame))


def test_sixteen_bits_go_through_the_float_graph(sr: SuperResolver) -> None:
    frame = frame_of_size(*SIZE).astype(np.uint16) * 257
    with wdsr_edge.load(MODEL, backend="onnxruntime", precision="fp32") as reference:
        assert np.abs(sr(frame).astype(int) - reference(frame)).max() < 64


def test_threads_share_a_session(sr: SuperResolver) -> None:
    frames = [np.roll(frame_of_size(*SIZE), 7 * i, axis=0) for i in range(4)]
    wanted = [sr(frame) for frame in frames]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(50):
            if not (sr(frames[index]) == wanted[index]).all():
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_comes_back(sr: SuperResolver, cache: Path) -> None:
    cuda, frame = Cuda(), frame_of_size(*SIZE)
    sr(frame)
    left = []
    for _ in range(12):
        with wdsr_edge.load(MODEL, backend=sr.backend, precision="fp16", cache_dir=cache) as made:
            made(frame)
        gc.collect()
        cuda.select()
        left.append(cuda.call("cudaMemGetInfo")[0])
    assert max(left[:4]) - min(left[-4:]) < 32 << 20, left


def test_a_frame_too_large_is_one_line_and_the_session_goes_on(cache: Path, sr: SuperResolver) -> None:
    with (
        wdsr_edge.load(MODEL, backend=sr.backend, precision="fp16", cache_dir=cache, tile=None) as whole,
        pytest.raises(BackendError) as caught,
    ):
        whole(np.zeros((16384, 16384, 3), np.uint8))
    assert "\n" not in str(caught.value)
    assert sr(frame_of_size(*SIZE)).shape == (128, 192, 3)


def test_a_stream_keeps_the_gpu_busy(sr: SuperResolver) -> None:
    """Submitted frames take little longer than the engine alone, as copies and the CPU's part are hidden."""
    from wdsr_edge.measuring.timing import measure_stream

    frame = frame_of_size(540, 960)
    alone = sr.engine_ms(frame)
    assert alone is not None
    stream = measure_stream(lambda: sr.submit(frame).result, sr.in_flight, 2.0)
    assert alone < 1.05 * stream
    assert stream < 2 * alone + 2, (stream, alone)
