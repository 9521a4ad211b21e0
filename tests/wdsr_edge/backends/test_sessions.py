"""Every backend that runs here gives the same frames, and one-line errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import wdsr_edge
from wdsr_edge import BackendError, Bundle
from wdsr_edge.backends import ON_CPU, Backend, open_session
from wdsr_edge.images.samples import golden_frame, sample_frames
from wdsr_edge.loading import ZOO

BUNDLE = Bundle.load(ZOO / "wdsr-b-1x32-x2")
FRAME = np.ascontiguousarray(sample_frames()["chelsea.png"][:60, :83])


@pytest.fixture(params=ON_CPU)
def backend(request: pytest.FixtureRequest) -> Backend:
    name: Backend = request.param
    pytest.importorskip(name)
    return name


def test_the_golden_frame_is_the_references(backend: Backend) -> None:
    lr, sr = BUNDLE.golden()
    with wdsr_edge.load(BUNDLE.path, backend=backend) as upscale:
        assert (upscale.backend, upscale.precision) == (backend, "fp32")
        assert np.abs(upscale(lr).astype(int) - sr).max() <= 1


def test_batches_of_any_size_and_dtype(backend: Backend) -> None:
    session = open_session(backend, BUNDLE.onnx("fp32"))
    one = session.run(FRAME[None])
    assert (one.shape, one.dtype) == ((1, 120, 166, 3), np.uint8)
    both = session.run(np.stack([FRAME, FRAME[::-1]]))
    np.testing.assert_array_equal(both[0], one[0])
    np.testing.assert_array_equal(session.run(np.ascontiguousarray(FRAME[None, :9, :7])).shape, (1, 18, 14, 3))
    session.close()
    floats = open_session(backend, BUNDLE.onnx("fp32", "float32"))
    sr = floats.run(np.ascontiguousarray(FRAME.transpose(2, 0, 1)[None], np.float32) / 255)
    assert (sr.shape, sr.dtype) == ((1, 3, 120, 166), np.float32)
    assert np.abs(sr[0].transpose(1, 2, 0).clip(0, 1) * 255 - one[0]).max() < 0.51
    floats.close()


def test_a_result_belongs_to_the_caller(backend: Backend) -> None:
    session = open_session(backend, BUNDLE.onnx("fp32"))
    first = session.run(FRAME[None])
    kept = first.copy()
    session.run(255 - FRAME[None])
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    np.testing.assert_array_equal(session.run(FRAME[None]), kept)


def test_threads_may_share_a_session(backend: Backend) -> None:
    session = open_session(backend, BUNDLE.onnx("fp32"))
    frames = [np.roll(golden_frame()[None, :40, :40], i, axis=2) for i in range(8)]
    expected = [session.run(frame) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(session.run, frames), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("graph", [b"", b"no graph at all" * 9])
def test_a_graph_that_is_none_is_one_line(backend: Backend, graph: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        open_session(backend, graph)
    assert "\n" not in str(caught.value)


def test_a_batch_of_another_shape_is_one_line(backend: Backend, tmp_path: Path) -> None:
    session = open_session(backend, BUNDLE.onnx("fp32"))
    with pytest.raises(BackendError) as caught:
        session.run(FRAME[None, :, :, :2])
    assert "\n" not in str(caught.value)
