"""What a frame may be; colour hidden under transparency never shows, and grey frames stay grey."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wdsr_edge.test_super_resolver import CONFIG, HALO, Nearest, Sums, noise, real, resolver
from wdsr_edge import SuperResolver
from wdsr_edge.frames import ALPHA_REACH, bled, enlarge_alpha, is_grey

DTYPES: tuple[Any, ...] = (np.uint8, np.uint16, np.float32)


def top(dtype: Any) -> Any:
    return dtype(1 if dtype == np.float32 else np.iinfo(dtype).max)


def with_holes(height: int, width: int, *, dtype: Any = np.uint8, seed: int = 0) -> Any:
    """Random RGBA: blobs of alpha 0, of alpha in between, and opaque ones."""
    frame = noise(height, width, 4, dtype=dtype, seed=seed)
    kind = noise(-(-height // 5), -(-width // 5), seed=seed + 1).repeat(5, 0).repeat(5, 1)[:height, :width] % 3
    frame[..., 3] = np.where(kind == 0, 0, np.where(kind == 1, top(dtype), frame[..., 3]))
    return frame


def otherwise_hidden(frame: Any, seed: int = 9) -> Any:
    """The same picture with other colours under its alpha of 0."""
    hidden = frame[..., 3:] == 0
    other = noise(*frame.shape, dtype=frame.dtype.type, seed=seed)
    return np.where(hidden & (np.arange(4) < 3), other, frame).astype(frame.dtype)


# What is a frame


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_any_byte_order_is_taken_and_the_machines_comes_back(order: str, dtype: Any, shape: Any) -> None:
    frame = noise(*shape, dtype=dtype)
    other = frame.astype(frame.dtype.newbyteorder(order))
    other.flags.writeable = False
    for big in (real()(other), real().submit(other).result()):
        assert big.dtype.isnative
        assert big.dtype == dtype
        assert np.array_equal(big, real()(frame))


@given(st.floats(-0.0009, 1.0009) | st.sampled_from([-1e-3, 1 + 1e-3]), st.sampled_from(["<f4", ">f4"]))
def test_floats_that_overshoot_a_little_are_clipped(value: float, dtype: str) -> None:
    frame = noise(3, 4, 4, dtype=np.float32).astype(dtype)
    frame[1, 2] = value
    before = frame.copy()
    assert np.array_equal(real()(frame), real()(before.clip(0, 1)))
    assert np.array_equal(frame, before)


# What is hidden


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(DTYPES),
    st.sampled_from(["rgb", "bgr"]),
    st.sampled_from([None, 5]),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_hidden_colour_changes_nothing(height: int, width: int, dtype: Any, color: Any, tile: Any, seed: int) -> None:
    """Not even what is hidden in the result."""
    frame = with_holes(height, width, dtype=dtype, seed=seed)
    sr = real(tile=tile)
    np.testing.assert_array_equal(sr(frame, color), sr(otherwise_hidden(frame), color))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_flat_shape_comes_out_flat(dtype: Any) -> None:
    """Wherever any of it can be seen, the result is that of the flat colour without holes."""
    flat = np.full((40, 60, 4), top(dtype), dtype)
    flat[..., :3] = (np.array([0.8, 0.1, 0.3]) * float(top(dtype))).astype(dtype)
    shape = flat.copy()
    shape[:, 20:, 3] = 0
    shape[5, 40, 3] = top(dtype)
    shape = otherwise_hidden(shape)
    for sr in (real(), real(tile=7)):
        whole, cut = sr(flat), sr(shape)
        seen = cut[..., 3] > 0
        assert 0.3 < seen.mean() < 0.6
        apart = np.abs(cut[seen][:, :3].astype(float) - whole[seen][:, :3]).max()
        assert apart <= {np.uint8: 0, np.uint16: 1, np.float32: 1e-6}[dtype]


def test_colour_is_spread_as_far_as_it_counts_and_less_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = np.full((30, 60, 4), 255, np.uint8)
    flat[..., 1] = 30
    shape = flat.copy()
    shape[:, 20:, 3] = 0
    whole, cut = resolver(Sums(), tile=None)(flat), resolver(Sums(), tile=None)(shape)
    seen = cut[..., 3] > 0
    np.testing.assert_array_equal(cut[seen][:, :3], whole[seen][:, :3])
    monkeypatch.setattr("wdsr_edge.super_resolver.ALPHA_REACH", ALPHA_REACH - 2)  # a straight edge reaches 1
    short = resolver(Sums(), tile=None)(shape)
    assert (short[seen] != cut[seen]).any()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_alpha_reaches_as_far_as_it_says(scale: int) -> None:
    alpha = np.zeros((15, 15), np.float32)
    alpha[7, 7] = 1
    rows, columns = np.nonzero(enlarge_alpha(alpha, scale))
    assert {int(np.abs(line // scale - 7).max()) for line in (rows, columns)} == {ALPHA_REACH}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_tiles_of_a_frame_with_holes_join_exactly(height: int, width: int, tile: int, seed: int) -> None:
    frame = with_holes(height, width, seed=seed)
    np.testing.assert_array_equal(resolver(Sums(), tile=tile)(frame), resolver(Sums(), tile=None)(frame))


@pytest.mark.parametrize("dtype", DTYPES)
def test_visible_colour_is_left_as_it_is_and_hidden_takes_its_neighbours(dtype: Any) -> None:
    frame = np.zeros((3, 5, 4), dtype)
    frame[...] = otherwise_hidden(frame)
    frame[1, 0] = top(dtype) * np.array([1, 0, 1, 1])
    frame[0, 0] = top(dtype) * np.array([0, 1, 1, 1])
    frame[0, 0, 3] = top(dtype) * 0.01 + 1e-3
    before = frame.copy()
    found = bled(frame, 2)
    np.testing.assert_array_equal(found[:2, 0], frame[:2, 0, :3])
    mean = (frame[0, 0, :3].astype(float) + frame[1, 0, :3]) / 2
    np.testing.assert_allclose(found[0, 1], mean, atol=0.5)
    np.testing.assert_array_equal(found[2, 0], frame[1, 0, :3])
    assert (found[:, 2, 2] == top(dtype)).all()
    assert (found[:, 3:] == 0).all()
    assert found.dtype == dtype
    np.testing.assert_array_equal(frame, before)
    assert (bled(np.zeros((4, 4, 4), dtype), 3) == 0).all()


def test_an_opaque_frame_is_not_copied() -> None:
    frame = noise(8, 9, 4)
    frame[..., 3] = 1
    assert np.shares_memory(bled(frame, 5), frame)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frame_with_holes_may_lie_anyhow_and_is_never_written_to(dtype: Any) -> None:
    frame = with_holes(11, 18, dtype=dtype)
    for odd in (np.asfortranarray(frame), frame[::-1].copy()[::-1], np.repeat(frame, 2, 1)[:, ::2]):
        odd.flags.writeable = False
        np.testing.assert_array_equal(real(tile=4)(odd), real(tile=4)(frame))
        np.testing.assert_array_equal(odd, frame)


# Grey


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(DTYPES),
    st.sampled_from([3, 4]),
    st.sampled_from(["rgb", "bgr"]),
    st.sampled_from([None, 5]),
)
@settings(max_examples=40, deadline=None)
def test_grey_in_colour_channels_stays_grey(
    height: int, width: int, dtype: Any, channels: int, color: Any, tile: Any
) -> None:
    grey = noise(height, width, dtype=dtype)
    frame = np.repeat(grey[..., None], channels, 2)
    frame[..., 3:] = top(dtype)
    sr = real(tile=tile)
    big = sr(frame, color)
    np.testing.assert_array_equal(big[..., :3], np.repeat(sr(grey)[..., None], 3, 2))
    assert (big[..., 3:] == top(dtype)).all()
    assert big.dtype == dtype


def test_this_network_tints_grey_otherwise() -> None:
    """So that the test above has teeth."""
    frame = np.repeat(noise(20, 30)[..., None], 3, 2)
    sr = real()
    monochrome = sr(frame)
    bare = SuperResolver(sr._session, sr.config, open_float_session=Nearest, keep_grey=False)
    assert not is_grey(bare(frame))
    assert is_grey(monochrome)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_hidden_does_not_make_grey_a_colour(dtype: Any) -> None:
    frame = np.repeat(noise(16, 18, 1, dtype=dtype), 4, 2)
    frame[..., 3] = with_holes(16, 18, dtype=dtype)[..., 3]
    frame = otherwise_hidden(frame)
    assert not is_grey(frame[..., :3])
    assert is_grey(real()(frame)[..., :3])


def test_the_whole_frame_decides_and_not_a_window() -> None:
    """One pixel of colour in a corner, and every window is computed as colour."""
    frame = np.repeat(noise(60, 70, 1), 3, 2)
    frame[-1, -1, 2] ^= 1
    whole, tiled = real()(frame), real(tile=8)(frame)
    assert not is_grey(whole[:20, :20])
    assert np.abs(whole.astype(int) - tiled).max() <= 1


@pytest.mark.parametrize(("row", "column", "channel"), [(0, 0, 0), (0, 0, 1), (0, 0, 2), (299, 399, 1), (150, 3, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_pixel_of_colour_is_found(row: int, column: int, channel: int, dtype: Any) -> None:
    frame = np.zeros((300, 400, 3), dtype)
    assert is_grey(frame)
    frame[row, column, channel] = 1
    assert not is_grey(frame)


def test_grey_in_colour_channels_runs_as_often_as_grey() -> None:
    counts = []
    for frame in (noise(40, 40), np.repeat(noise(40, 40, 1), 3, 2)):
        session = Nearest()
        SuperResolver(session, CONFIG, open_float_session=Nearest, tile=40 - 2 * HALO - 3)(frame)
        counts.append(session.shapes)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("places", [[(300, 300)], [(300, 300), (303, 309), (290, 310)]])
def test_what_is_far_away_does_not_count(places: list[tuple[int, int]]) -> None:
    """In a large frame, where few pixels are next to a visible one, as in a crop of it."""
    frame = noise(600, 620, 4)
    frame[..., 3] = 0
    for place in places:
        frame[(*place, 3)] = 255
    crop = np.s_[270:330, 280:340]
    whole = bled(frame, 9)
    np.testing.assert_array_equal(whole[crop], bled(frame[crop], 9))
    assert not whole[:270].any()
    assert whole[295:306, 295:306].all(axis=2).any()
