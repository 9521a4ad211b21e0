from __future__ import annotations

import functools
import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import wdsr_edge
from tests.strategies import ARCHS, SCALES, trained_like
from wdsr_edge import BackendError, InputError, SuperResolver
from wdsr_edge.backends import Session, open_session
from wdsr_edge.config import ModelConfig
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import fold
from wdsr_edge.models.reference import reference
from wdsr_export import export_onnx

CONFIG = ModelConfig.from_name("wdsr-b-1x8-x2")
HALO = CONFIG.halo


class Nearest:
    """An engine that repeats every pixel; uint8 NHWC, or float32 NCHW where it is the float one."""

    def __init__(self, scale: int = 2, work: Callable[[], object] = lambda: None) -> None:
        self.scale, self.work = scale, work
        self.shapes: list[tuple[int, ...]] = []
        self.closed = 0

    def run(self, batch: Any) -> Any:
        assert not self.closed, "run after close"
        assert batch.flags.c_contiguous
        self.shapes.append(batch.shape)
        self.work()
        rows, columns = (1, 2) if batch.dtype == np.uint8 else (2, 3)
        assert batch.dtype in (np.uint8, np.float32)
        assert batch.shape[3 if batch.dtype == np.uint8 else 1] == 3
        return self.enlarge(batch, rows, columns)

    def enlarge(self, batch: Any, rows: int, columns: int) -> Any:
        return batch.repeat(self.scale, rows).repeat(self.scale, columns)

    def close(self) -> None:
        self.closed += 1


class Sums(Nearest):
    """Exact arithmetic in which every pixel within the halo counts, with zeros outside the frame."""

    def enlarge(self, batch: Any, rows: int, columns: int) -> Any:
        padded = np.pad(batch.astype(np.int64), ((0, 0), (HALO, HALO), (HALO, HALO), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * HALO + 1,) * 2, axis=(1, 2))
        odd = 2 * np.arange((2 * HALO + 1) ** 2).reshape((2 * HALO + 1,) * 2) + 1
        sums = np.einsum("nhwcij,ij->nhwc", windows, odd) % 251
        return super().enlarge(sums.astype(np.uint8), rows, columns)


def resolver(session: Session | None = None, *, tile: Any = "auto", floats: Session | None = None) -> SuperResolver:
    fallback = floats or Nearest()
    return SuperResolver(session or Nearest(), CONFIG, open_float_session=lambda: fallback, tile=tile)


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> Any:
    levels = np.random.default_rng(seed).random(shape)
    return levels.astype(dtype) if dtype == np.float32 else (levels * np.iinfo(dtype).max).astype(dtype)


def doubled(frame: Any) -> Any:
    return frame.repeat(2, 0).repeat(2, 1)


# Tiles


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_tiles_join_to_the_whole_frame_exactly(height: int, width: int, tile: int) -> None:
    frame = noise(height, width, 3)
    whole = resolver(Sums(), tile=None)(frame)
    session = Sums()
    np.testing.assert_array_equal(resolver(session, tile=tile)(frame), whole)
    assert len(set(session.shapes)) == 1
    assert max(session.shapes[0][1:3]) <= tile + 2 * HALO


def test_tile_none_is_one_call_and_auto_tiles_what_is_large() -> None:
    whole, auto = Nearest(), Nearest()
    frame = noise(8, 70_000, 3)
    np.testing.assert_array_equal(resolver(whole, tile=None)(frame), doubled(frame))
    np.testing.assert_array_equal(resolver(auto)(frame), doubled(frame))
    assert whole.shapes == [(1, 8, 70_000, 3)]
    assert len(auto.shapes) > 1


@pytest.mark.parametrize(
    ("height", "width", "one"), [(300, 1400, True), (1400, 300, True), (20, 20_000, True), (750, 750, False)]
)
def test_a_wide_frame_that_is_no_larger_than_a_window_is_one(height: int, width: int, one: bool) -> None:
    """Of 546,133 pixels here, whatever the sides; grey and RGB alike. A tile that was asked for is kept to."""
    for frame in (noise(height, width, 3), noise(height, width)):
        session, tiled = Nearest(), Nearest()
        resolver(session)(frame)
        assert (session.shapes == [(1, height, width, 3)]) == one
        resolver(tiled, tile=585)(frame)
        assert len(tiled.shapes) > 1


def loud(config: ModelConfig) -> nn.Module:
    """A network in which the far end of the receptive field still moves the output by whole levels."""
    model = fold(trained_like(config, seed=3))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.weight[0].numel()
                module.weight.normal_(0, (1.5 / fan) ** 0.5)
    return model


@functools.cache
def engine(arch: str, scale: int) -> tuple[ModelConfig, Session, Session, nn.Module]:
    """A real ONNX Runtime session for each graph of a random network, made once."""
    import tempfile
    from pathlib import Path

    model: Any = loud(ModelConfig.from_name(f"{arch}-2x8-x{scale}"))
    with tempfile.TemporaryDirectory() as folder:
        uint8, floats = Path(folder, "uint8.onnx"), Path(folder, "float.onnx")
        export_onnx(model, uint8)
        export_onnx(model, floats, io="float32")
        sessions = [open_session("onnxruntime", path.read_bytes()) for path in (uint8, floats)]
    return model.config, sessions[0], sessions[1], model


def real(arch: str = "wdsr-b", scale: int = 2, tile: Any = None) -> SuperResolver:
    config, uint8, floats, _ = engine(arch, scale)
    return SuperResolver(uint8, config, open_float_session=lambda: floats, tile=tile)


@given(st.sampled_from(ARCHS), st.sampled_from(SCALES), st.integers(1, 70), st.integers(1, 90), st.integers(1, 40))
@settings(max_examples=25)
def test_tiled_is_the_whole_frame_on_a_real_engine(arch: str, scale: int, height: int, width: int, tile: int) -> None:
    frame = noise(height, width, 3)
    whole, tiled = real(arch, scale)(frame), real(arch, scale, tile)(frame)
    assert whole.shape == (height * scale, width * scale, 3)
    apart = np.abs(whole.astype(int) - tiled)
    assert apart.max() <= 1
    assert np.count_nonzero(apart.any(axis=2)) <= max(1, 1e-4 * height * width * scale**2)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_halo_one_pixel_short_would_show(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above has teeth."""
    frame = noise(48, 48, 3)
    short = real(arch, 2, 6)
    monkeypatch.setattr(short, "halo", short.halo - 1)
    assert (short(frame) != real(arch, 2)(frame)).any()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("arch", ARCHS)
def test_the_engine_is_within_a_level_of_pytorch(arch: str, scale: int) -> None:
    frame = golden_frame()[:40, :56]
    expected = reference(engine(arch, scale)[3])(frame)
    assert np.abs(real(arch, scale)(frame).astype(int) - expected).max() <= 1


# Frames of every kind


@pytest.mark.parametrize("tile", ["auto", None, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (17, 1), (2, 2), (13, 21)])
def test_any_size(size: tuple[int, int], tile: Any) -> None:
    frame = noise(*size, 3)
    np.testing.assert_array_equal(resolver(tile=tile)(frame), doubled(frame))
    model = engine("wdsr-b", 2)[3]
    assert np.abs(real(tile=tile)(frame).astype(int) - reference(model)(frame)).max() <= 1


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "Fortran": np.asfortranarray,
    "every other": lambda frame: np.repeat(np.repeat(frame, 2, 0), 3, 1)[::2, ::3],
    "upside down": lambda frame: frame[::-1].copy()[::-1],
    "mirrored": lambda frame: frame[:, ::-1].copy()[:, ::-1],
    "channels reversed": lambda frame: frame[..., ::-1].copy()[..., ::-1],
    "planar": lambda frame: np.ascontiguousarray(frame.transpose(2, 0, 1)).transpose(1, 2, 0),
    "crop": lambda frame: np.pad(frame, ((3, 3), (3, 3), (0, 0)))[3:-3, 3:-3],
    "broadcast": lambda frame: np.broadcast_to(frame, frame.shape),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_in_memory_and_never_written_to(layout: str, tile: Any, dtype: Any) -> None:
    frame = noise(11, 18, 3, dtype=dtype)
    odd = LAYOUTS[layout](frame)
    odd.flags.writeable = False
    before = odd.copy()
    expected = real(tile=tile)(frame)
    np.testing.assert_array_equal(real(tile=tile)(odd), expected)
    np.testing.assert_array_equal(resolver(tile=tile)(odd), doubled(frame) if dtype != np.uint8 else doubled(odd))
    np.testing.assert_array_equal(odd, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_channels_and_dtype_come_back_as_they_came(shape: tuple[int, ...], dtype: Any, color: Any) -> None:
    frame = noise(*shape, dtype=dtype)
    frame[frame == 0] = 1  # so that no alpha hides a colour
    before = frame.copy()
    for sr in (resolver(), resolver(tile=2)):
        big = sr(frame, color=color)
        assert big.dtype == dtype
        assert big.shape == (18, 14, *shape[2:])
        same = big[..., :3] if len(shape) == 3 and shape[2] == 4 else big
        given_colours = frame[..., :3] if len(shape) == 3 and shape[2] == 4 else frame
        np.testing.assert_allclose(same, doubled(given_colours), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(frame, before)


def test_bgr_is_rgb_reversed() -> None:
    frame = noise(20, 24, 4)
    order = [2, 1, 0, 3]
    np.testing.assert_array_equal(real()(frame[..., order], color="bgr")[..., order], real()(frame))
    bgr = np.ascontiguousarray(frame[..., 2::-1])
    big = real()(bgr, color="bgr")
    np.testing.assert_array_equal(big[..., ::-1], real()(frame[..., :3]))
    assert big.flags.c_contiguous
    assert (big != real()(bgr)).any()


def test_grey_is_the_luma_of_what_the_network_makes_of_it() -> None:
    grey = noise(20, 24)
    colour = real()(np.repeat(grey[..., None], 3, 2)).astype(float)
    expected = colour @ [0.299, 0.587, 0.114]
    assert np.abs(real()(grey) - expected).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(real()(grey[..., None])[..., 0], real()(grey))
    np.testing.assert_array_equal(real()(grey, color="bgr"), real()(grey))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_white_and_black_do_not_wrap(dtype: Any) -> None:
    for level in (0, np.iinfo(dtype).max):
        assert (resolver()(np.full((5, 5), level, dtype)) == level).all()


def test_float_output_is_a_valid_float_frame() -> None:
    frame = noise(12, 12, dtype=np.float32)
    frame[:6] = 1
    big = real()(frame)
    assert 0 <= big.min() <= big.max() <= 1
    real()(real()(noise(12, 12, 3, dtype=np.float32)))
    real()(big)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_is_enlarged_and_a_constant_one_stays(dtype: Any) -> None:
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    frame = noise(9, 11, 4, dtype=dtype)
    for level in (0, top):
        frame[..., 3] = level
        assert (resolver()(frame)[..., 3] == level).all()
    frame[..., 3] = 0
    frame[:, 5:, 3] = top
    alpha = resolver()(frame)[..., 3]
    assert (alpha[:, :6] == 0).all()
    assert (alpha[:, -6:] == top).all()
    assert (np.diff(alpha.astype(float)[9, 8:13]) >= 0).all()


def test_wide_frames_keep_their_precision() -> None:
    """uint16 and float32 agree with each other far below one level of 8 bits, and with uint8 to one level."""
    frame = golden_frame()[:20, :30]
    narrow = real()(frame).astype(float)
    wide = real()(frame.astype(np.uint16) * 257).astype(float)
    floats = real()(frame.astype(np.float32) / 255).astype(float)
    assert np.abs(wide / 257 - narrow).max() <= 0.51
    assert np.abs(wide / 65535 - floats).max() <= 1e-5
    assert len(np.unique(wide)) > 256


def test_uint16_round_trips_every_level() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(resolver()(np.dstack([levels] * 3)), doubled(np.dstack([levels] * 3)))


def test_the_float_engine_is_opened_only_when_needed_and_once() -> None:
    opened: list[Nearest] = []

    def open_float_session() -> Nearest:
        opened.append(Nearest())
        return opened[-1]

    with SuperResolver(Nearest(), CONFIG, open_float_session=open_float_session) as sr:
        sr(noise(4, 4, 3))
        assert not opened
        for dtype in (np.uint16, np.float32, np.uint16):
            sr(noise(4, 4, 3, dtype=dtype))
    assert len(opened) == 1
    assert opened[0].closed == 1


def test_the_result_is_the_callers() -> None:
    frame = noise(6, 6, 3)
    sr = real()
    first = sr(frame)
    kept = first.copy()
    second = sr(255 - frame)
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    assert second.any()
    assert (sr(frame) == kept).all()


# Refusals

FRAMES: list[Any] = [
    None,
    [[[1, 2, 3]]],
    "frame.png",
    io.BytesIO(),
    torch.zeros(4, 4, 3, dtype=torch.uint8),
    np.uint8(3),
    np.zeros((), np.uint8),
    np.zeros(9, np.uint8),
    np.zeros((1, 4, 4, 3), np.uint8),
    np.zeros((3, 4, 5), np.uint8),
    np.zeros((4, 4, 2), np.uint8),
    np.zeros((4, 4, 5), np.uint8),
    np.zeros((0, 4, 3), np.uint8),
    np.zeros((4, 0, 3), np.uint8),
    np.zeros((4, 4, 0), np.uint8),
    np.zeros((0, 0), np.uint8),
    *[np.zeros((4, 4, 3), dtype) for dtype in (np.int8, np.int32, np.int64, np.uint32, np.float16, np.float64, bool)],
    *[np.zeros((4, 4, 3), dtype) for dtype in (np.complex64, object, "U1", "M8[s]", ">i2", ">f8", "u1,u1")],
    np.full((4, 4, 3), np.nan, np.float32),
    np.full((4, 4, 3), np.inf, np.float32),
    np.full((4, 4, 3), 1.0011, np.float32),
    np.full((4, 4, 3), -0.0011, np.float32),
    np.full((4, 4, 3), np.nan, ">f4"),
    np.where(np.arange(48).reshape(4, 4, 3) == 47, np.nan, 0.5).astype(np.float32),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: f"{type(frame).__name__}-{getattr(frame, 'dtype', '')}")
def test_what_is_no_frame_is_refused_in_one_line(frame: Any) -> None:
    for call in (resolver(), resolver().submit):
        with pytest.raises(InputError) as caught:
            call(frame)
        assert "frame is" in str(caught.value) or "frame has" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("color", ["RGB", "nv12", "", None, 3, ["rgb"]])
def test_other_colours_are_refused(color: Any) -> None:
    with pytest.raises(InputError, match="color must be"):
        resolver()(noise(4, 4, 3), color=color)
    with pytest.raises(InputError, match="color must be"):
        resolver().submit(noise(4, 4, 3), color)


@pytest.mark.parametrize("tile", [0, -1, 1.5, True, False, "big", "64", [4], (4, 4)])
def test_other_tiles_are_refused(tile: Any) -> None:
    with pytest.raises(InputError, match="tile must be"):
        resolver(tile=tile)


# Tickets, closing and threads


def test_attributes_say_what_is_in_use() -> None:
    sr = SuperResolver(Nearest(), CONFIG, open_float_session=Nearest, backend="openvino", precision="int8")
    assert (sr.scale, sr.halo, sr.backend, sr.precision) == (2, HALO, "openvino", "int8")


def test_tickets_are_worked_on_in_order() -> None:
    session = Nearest()
    with resolver(session) as sr:
        tickets = [sr.submit(np.full((n, 2, 3), n, np.uint8)) for n in range(1, 30)]
        for n, ticket in enumerate(tickets, 1):
            assert (ticket.result(10) == np.full((2 * n, 4, 3), n)).all()
            assert ticket.result() is ticket.result()
    assert [shape[1] for shape in session.shapes] == list(range(1, 30))


def test_submit_does_not_wait_and_result_can_time_out() -> None:
    go = threading.Event()
    with resolver(Nearest(work=lambda: go.wait(10))) as sr:
        ticket = sr.submit(noise(2, 2, 3))
        with pytest.raises(TimeoutError):
            ticket.result(0.01)
        go.set()
        assert ticket.result(10).shape == (4, 4, 3)


def test_submit_takes_a_colour() -> None:
    frame = noise(8, 8, 3)
    with real() as sr:
        np.testing.assert_array_equal(sr.submit(frame, "bgr").result(10), sr(frame, "bgr"))
        engine.cache_clear()


def test_errors_come_out_of_result_and_the_next_frame_is_worked_on() -> None:
    failures = iter([BackendError("out of memory"), None])

    def work() -> None:
        error = next(failures)
        if error:
            raise error

    with resolver(Nearest(work=work)) as sr:
        first, second = sr.submit(noise(2, 2, 3)), sr.submit(noise(2, 2, 3))
        with pytest.raises(BackendError, match="out of memory"):
            first.result(10)
        assert second.result(10).shape == (4, 4, 3)


def test_a_closed_one_says_so() -> None:
    session = Nearest()
    with resolver(session) as sr:
        assert sr(noise(2, 2, 3)).shape == (4, 4, 3)
    sr.close()
    assert session.closed == 1
    for call in (sr, sr.submit):
        with pytest.raises(BackendError, match="is closed"):
            call(noise(2, 2, 3))


def test_the_engine_is_closed_when_the_block_fails() -> None:
    session = Nearest()
    with pytest.raises(ZeroDivisionError), resolver(session):
        raise ZeroDivisionError
    assert session.closed == 1


def test_close_finishes_the_frames_under_way() -> None:
    started, go = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go.wait(10)

    session = Nearest(work=work)
    sr = resolver(session)
    tickets = [sr.submit(noise(2, 2, 3)) for _ in range(3)]
    started.wait(10)
    closer = threading.Thread(target=sr.close)
    closer.start()
    assert session.closed < 1
    go.set()
    closer.join(10)
    assert session.closed == 1
    assert [ticket.result(0).shape for ticket in tickets] == [(4, 4, 3)] * 3


def closing() -> tuple[SuperResolver, Nearest, threading.Event, threading.Thread]:
    """A resolver whose ``close`` waits, in a thread, for a submitted frame that the event lets go."""
    started, go = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        go.wait(10)

    session = Nearest(work=work)
    sr = resolver(session)
    sr.submit(noise(2, 2, 3))
    started.wait(10)
    closer = threading.Thread(target=sr.close)
    closer.start()
    closer.join(0.1)
    return sr, session, go, closer


def test_submit_while_closing_says_closed() -> None:
    """Not accepted: else a new worker thread runs a closed engine, and nobody ends it."""
    sr, session, go, closer = closing()
    try:
        with pytest.raises(BackendError, match="is closed"):
            sr.submit(noise(2, 2, 3)).result(0.5)
    finally:
        go.set()
        closer.join(10)
    assert len(session.shapes) == 1


def test_closing_under_a_direct_call_leaves_a_result_or_a_backend_error() -> None:
    """Between two tiles: the engine may be gone, but never with an AssertionError, and never run after close."""
    between, go = threading.Event(), threading.Event()

    def work() -> None:
        between.set()
        go.wait(10)

    session = Nearest(work=work)
    sr = resolver(session, tile=2)
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(sr, noise(30, 30, 3))
        between.wait(10)
        closer = pool.submit(sr.close)
        threading.Event().wait(0.1)
        go.set()
        closer.result(10)
        error = call.exception(10)
    assert error is None or isinstance(error, BackendError), repr(error)


def test_calls_from_several_threads_agree_with_calls_from_one() -> None:
    frames = [noise(20 + n, 30 - n, 3, dtype=dtype, seed=n) for n in range(8) for dtype in (np.uint8, np.float32)]
    with real(tile=16) as sr:
        expected = [sr(frame) for frame in frames]
        with ThreadPoolExecutor(4) as pool:
            for frame, big in zip(frames * 3, pool.map(sr, frames * 3), strict=True):
                np.testing.assert_array_equal(big, expected[next(i for i, f in enumerate(frames) if f is frame)])
    engine.cache_clear()


def test_two_threads_open_one_float_engine() -> None:
    opened: list[Nearest] = []
    meet = threading.Barrier(2)

    def open_float_session() -> Nearest:
        opened.append(Nearest())
        threading.Event().wait(0.05)
        return opened[-1]

    sr = SuperResolver(Nearest(), CONFIG, open_float_session=open_float_session)

    def call(_: int) -> Any:
        meet.wait(10)
        return sr(noise(4, 4, 3, dtype=np.float32))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(call, range(2)))
    sr.close()
    assert [session.closed for session in opened] == [1]


def test_a_forked_child_has_its_own_worker() -> None:
    """What gunicorn and data loaders do: load, use, fork, use again in the child, close there."""
    program = """
import os, sys
import numpy as np
import wdsr_edge
sr = wdsr_edge.load("wdsr-b-3x32-x2")
frame = np.zeros((8, 8, 3), np.uint8)
expected = sr.submit(frame).result()
child = os.fork()
if child == 0:
    same = np.array_equal(sr.submit(frame).result(20), expected)
    sr.close()
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_it_cannot_be_pickled() -> None:
    with wdsr_edge.load("wdsr-b-3x32-x2") as sr, pytest.raises(InputError, match="load it there"):
        pickle.dumps(sr)


@pytest.mark.parametrize("shape", [(40, 50, 3), (40, 50), (40, 50, 4), (70, 20, 1)])
def test_each_window_is_told(shape: tuple[int, ...]) -> None:
    told: list[tuple[int, int]] = []
    sr = resolver(Nearest(), tile=10)
    assert np.array_equal(sr(noise(*shape), on_tile=lambda *done: told.append(done)), sr(noise(*shape)))
    total = told[0][1]
    assert total > 5
    assert told == [(number, total) for number in range(1, total + 1)]
    sr(noise(5, 5, 3), on_tile=lambda *done: told.append(done))
    assert len(told) == total
