from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdsr_edge import InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.tiling import ACTIVATION_BYTES, Span, auto_pixels, auto_tile, auto_windows, spans, tiles

lengths, cores, halos, fixed_sizes = st.integers(1, 400), st.integers(1, 90), st.integers(0, 40), st.booleans()


@given(lengths, cores, halos, fixed_sizes)
@settings(max_examples=500)
def test_windows_keep_each_pixel_once_with_its_halo(length: int, tile: int, halo: int, fixed: bool) -> None:
    found = spans(length, tile, halo, fixed=fixed)
    kept = [pixel for span in found for pixel in range(span.first, span.last)]
    assert kept == list(range(length))
    for span in found:
        assert 0 <= span.start <= span.first < span.last <= span.stop <= length
        assert span.start == 0 or span.first - span.start >= halo
        assert span.stop == length or span.stop - span.last >= halo


@given(lengths, cores, halos, fixed_sizes)
@settings(max_examples=500)
def test_windows_are_of_one_size_and_no_larger_than_asked(length: int, tile: int, halo: int, fixed: bool) -> None:
    sizes = {span.stop - span.start for span in spans(length, tile, halo, fixed=fixed)}
    assert len(sizes) == 1
    (size,) = sizes
    assert size <= min(length, tile + 2 * halo)
    if fixed:
        assert size == min(length, tile + 2 * halo)


@given(lengths, cores, halos, fixed_sizes)
@settings(max_examples=500)
def test_there_are_no_more_windows_than_it_takes(length: int, tile: int, halo: int, fixed: bool) -> None:
    """n windows of w pixels keep at most n * (w - 2 * halo), and one halo more at each end of the frame."""
    count = len(spans(length, tile, halo, fixed=fixed))
    if length <= tile + 2 * halo:
        assert count == 1
    else:
        assert (count - 1) * tile + 2 * halo < length <= count * tile + 2 * halo


@given(lengths, cores, halos)
def test_shrunk_windows_share_the_work_evenly(length: int, tile: int, halo: int) -> None:
    """One pixel less and they would no longer cover the frame."""
    found = spans(length, tile, halo)
    size = found[0].stop - found[0].start
    if len(found) > 1:
        assert len(found) * (size - 2 * halo) + 2 * halo >= length
        assert len(found) * (size - 1 - 2 * halo) + 2 * halo < length


def test_spans_by_hand() -> None:
    assert spans(10, 4, 3) == [Span(0, 10, 0, 10)]
    assert spans(11, 4, 3) == [Span(0, 9, 0, 6), Span(2, 11, 6, 11)]
    assert spans(11, 4, 3, fixed=True) == [Span(0, 10, 0, 7), Span(1, 11, 7, 11)]
    assert spans(12, 4, 0) == [Span(0, 4, 0, 4), Span(4, 8, 4, 8), Span(8, 12, 8, 12)]


@given(*[st.integers(1, 60)] * 2, st.integers(1, 30), st.integers(0, 12), fixed_sizes)
def test_tiles_keep_each_pixel_of_a_frame_once(height: int, width: int, tile: int, halo: int, fixed: bool) -> None:
    kept = np.zeros((height, width), int)
    shapes, order = set(), []
    for row, column in tiles(height, width, tile, halo, fixed=fixed):
        kept[row.first : row.last, column.first : column.last] += 1
        shapes.add((row.stop - row.start, column.stop - column.start))
        order.append((row.first, column.first))
    assert (kept == 1).all()
    assert len(shapes) == 1
    assert order == sorted(order)


@pytest.mark.parametrize(("length", "tile"), [(0, 8), (-1, 8), (8, 0), (8, -1)])
def test_nothing_to_cover_is_refused(length: int, tile: int) -> None:
    with pytest.raises(InputError, match="at least 1 pixel"):
        spans(length, tile, 2)
    with pytest.raises(InputError, match="at least 1 pixel"):
        list(tiles(8, length, tile, 2))


@given(
    st.sampled_from(("edsr", "wdsr-a", "wdsr-b")), st.integers(1, 40), st.integers(2, 256), st.sampled_from((2, 3, 4))
)
def test_auto_tile_is_the_largest_whose_activations_fit(arch: str, blocks: int, channels: int, scale: int) -> None:
    config = ModelConfig.from_name(f"{arch}-{blocks}x{channels}-x{scale}")
    tile = auto_tile(config)
    widest = 4 * max(conv.outputs * conv.pixels for conv in config.convs)
    most = ACTIVATION_BYTES * min(1.25, max(1, config.halo / 6))
    assert tile >= 16
    if tile > 16:
        assert widest * (tile + 2 * config.halo) ** 2 <= most
    assert widest * (tile + 1 + 2 * config.halo) ** 2 > most


def test_auto_tile_by_hand() -> None:
    """192 channels of float32 for each LR pixel: windows of 330 pixels a side hold 80 MiB."""
    assert auto_tile(ModelConfig.from_name("wdsr-b-3x32-x2")) == 330 - 2 * 5
    assert auto_tile(ModelConfig.from_name("edsr-9999x9999-x4")) == 16


# Windows that are chosen by what they cost

sides, window_halos = st.integers(1, 120), st.integers(0, 12)
EXTRA = st.integers(60, 9000)


def computed(windows: tuple[tuple[Span, Span], ...]) -> int:
    return sum((row.stop - row.start) * (column.stop - column.start) for row, column in windows)


@given(sides, sides, window_halos, EXTRA)
@settings(max_examples=100)
def test_auto_windows_keep_each_pixel_once_with_its_halo(height: int, width: int, halo: int, extra: int) -> None:
    pixels = (1 + 2 * halo) ** 2 + extra
    windows = auto_windows(height, width, halo, pixels)
    kept = np.zeros((height, width), int)
    for row, column in windows:
        kept[row.first : row.last, column.first : column.last] += 1
        for span, length in ((row, height), (column, width)):
            assert 0 <= span.start <= span.first < span.last <= span.stop <= length
            assert span.start == 0 or span.first - span.start >= halo
            assert span.stop == length or span.stop - span.last >= halo
    assert (kept == 1).all()
    sizes = {(row.stop - row.start, column.stop - column.start) for row, column in windows}
    assert len(sizes) == 1
    ((tall, wide),) = sizes
    assert tall * wide <= (pixels if len(windows) > 1 else 1.25 * pixels)


@given(sides, sides, window_halos, EXTRA, st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=300)
def test_no_other_grid_computes_less(height: int, width: int, halo: int, extra: int, rows: int, columns: int) -> None:
    """Of those whose windows share the frame evenly and have at most as many pixels, but for rounding them up."""
    pixels = (1 + 2 * halo) ** 2 + extra
    tall = -(-(height + 2 * halo * (rows - 1)) // rows)
    wide = -(-(width + 2 * halo * (columns - 1)) // columns)
    if tall * wide <= pixels and (rows == 1 or tall > 2 * halo) and (columns == 1 or wide > 2 * halo):
        assert computed(auto_windows(height, width, halo, pixels)) <= rows * tall * columns * (wide + 1)


@pytest.mark.parametrize("name", ["wdsr-b-1x32-x2", "wdsr-b-3x32-x2", "wdsr-a-3x32-x2", "wdsr-b-3x32-x4"])
def test_halos_that_are_computed_twice(name: str) -> None:
    """They are what tiles cost."""
    config = ModelConfig.from_name(name)
    pixels = auto_pixels(config)
    assert len(auto_windows(270, 480, config.halo, pixels)) == 1
    most = {(540, 960): 1.05, (720, 1280): 1.05, (1080, 1920): 1.06, (2160, 3840): 1.08, (6000, 8000): 1.09}
    for (height, width), times in most.items():
        assert computed(auto_windows(height, width, config.halo, pixels)) <= times * height * width


@pytest.mark.parametrize(("height", "width"), [(1, 2_000_000), (2_000_000, 1), (30_000, 30_000), (11, 10_000_000)])
def test_windows_of_vast_and_thin_frames(height: int, width: int) -> None:
    windows = auto_windows(height, width, 5, 109_226)
    assert windows[-1][0].last == height
    assert windows[-1][1].last == width
    row, column = windows[0]
    assert (row.stop - row.start) * (column.stop - column.start) <= 109_226
    assert computed(windows) < 1.08 * height * width


def test_no_frame_has_no_windows() -> None:
    for height, width in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(InputError, match="at least 1 pixel"):
            auto_windows(height, width, 5, 1000)
