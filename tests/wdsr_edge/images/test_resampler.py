from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wdsr_edge import InputError
from wdsr_edge.images.files import read_rgb
from wdsr_edge.images.resampler import contributions, resize_bicubic
from wdsr_edge.images.samples import PHOTOS, golden_frame

SCALES = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(1), Fraction(2), Fraction(3), Fraction(4))
DYADIC = tuple(scale for scale in SCALES if 3 not in (scale.numerator, scale.denominator))
"""Scales whose weights float64 holds exactly."""

scales = st.sampled_from(SCALES)
shapes = st.tuples(st.integers(1, 17), st.integers(1, 17), st.integers(1, 4))


def images(dtype: Any = np.uint8, **elements: int) -> st.SearchStrategy[Any]:
    return shapes.flatmap(lambda shape: arrays.arrays(dtype, shape, elements=elements or None))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["baby", "bird", "butterfly", "head", "woman"])
def test_set5_is_matlabs_bit_for_bit(shared_data: Path, name: str, scale: int) -> None:
    golden = shared_data / "golden" / "Set5_matlab"
    hr = read_rgb(golden / "HR" / f"{name}.png")
    lr = read_rgb(golden / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png")
    height, width = (side // scale * scale for side in hr.shape[:2])
    np.testing.assert_array_equal(resize_bicubic(hr[:height, :width], 1 / scale), lr)


def test_div2k_is_its_authors_bit_for_bit(shared_data: Path) -> None:
    sample = shared_data / "div2k_sample"
    hr = read_rgb(sample / "DIV2K_train_HR" / "0004.png")
    lr = read_rgb(sample / "DIV2K_train_LR_bicubic" / "X2" / "0004x2.png")
    np.testing.assert_array_equal(resize_bicubic(hr, 0.5), lr)


# Written down while the two tests above passed. PNG only: a JPEG may decode differently elsewhere.
REGRESSION = {
    ("chelsea.png", 2): "351e07c2bf506f7b552a78caf8e137da2dc0607c258d2c3f861dc005c379a656",
    ("chelsea.png", 3): "198797be15fe852328fbd5b30f2f6db195cfddfb212b87d81ebebf666e392bcb",
    ("chelsea.png", 4): "2763b9379ac9f726ee00ad212737db81c87a04f01df75a854f9a013df80b082d",
    ("coffee.png", 2): "2356f976210326d9da0084e51ae5eef686960868631bf2ff18b0d4e8e7d4a8d0",
    ("coffee.png", 3): "ec9c2440bc955e42a2e124e2383abe5924cbd3eacba4978076deab713d3346c2",
    ("coffee.png", 4): "5c42e9762536e70034d6aac632d789664d63b4d080db53ac6a3a8913dee849ae",
}


@pytest.mark.parametrize(("name", "scale"), REGRESSION)
def test_shipped_photos_shrink_as_they_did(name: str, scale: int) -> None:
    lr = resize_bicubic(read_rgb(PHOTOS / name), 1 / scale)
    assert hashlib.sha256(np.ascontiguousarray(lr).tobytes()).hexdigest() == REGRESSION[name, scale]


def test_a_shipped_photo_grows_as_it_did() -> None:
    big = resize_bicubic(read_rgb(PHOTOS / "coffee.png")[:40, :50], 3)
    expected = "b65d3fef0cfc7fcae1915c43782df81159241957f73fe5eedc5281c935762522"
    assert hashlib.sha256(np.ascontiguousarray(big).tobytes()).hexdigest() == expected


def test_weights_are_those_that_matlab_documents() -> None:
    """Doubling samples the kernel a quarter pixel off: Keys' weights at 1/4, 3/4, 5/4 and 7/4."""
    weights, indices = contributions(8, Fraction(2))
    quarter = [(1.5 * x - 2.5) * x * x + 1 for x in (0.25, 0.75)]
    far = [((-0.5 * x + 2.5) * x - 4) * x + 2 for x in (1.25, 1.75)]
    assert sorted(weights[8][weights[8] != 0]) == pytest.approx(sorted([*quarter, *far]))
    assert contributions(8, Fraction(1, 2))[0].shape == (4, 8)
    assert indices.min() == 0
    assert indices.max() == 7


def test_rows_come_first_and_are_rounded() -> None:
    """The order shows, because uint8 is rounded and clipped in between; MATLAB takes the rows (axis 0) first."""
    frame = golden_frame()[:24, :24]
    once = resize_bicubic(frame, 0.5)
    columns_first = resize_bicubic(frame.transpose(1, 0, 2), 0.5).transpose(1, 0, 2)
    assert (once != columns_first).any()
    rows = np.stack([resize_bicubic(np.repeat(frame[:, i : i + 1], 2, axis=1), 0.5)[:, 0] for i in range(24)], axis=1)
    both = np.stack([resize_bicubic(np.repeat(rows[i : i + 1], 2, axis=0), 0.5)[0] for i in range(12)])
    np.testing.assert_array_equal(once, both)


@given(shapes, scales)
def test_sizes_are_rounded_up(shape: tuple[int, int, int], scale: Fraction) -> None:
    image = np.zeros(shape, np.uint8)
    expected = tuple(-(-side * scale.numerator // scale.denominator) for side in shape[:2])
    assert resize_bicubic(image, scale).shape == (*expected, shape[2])
    assert resize_bicubic(image, float(scale)).shape == (*expected, shape[2])


@given(shapes, scales, st.sampled_from((np.uint8, np.uint16, np.float32, np.float64)), st.integers(0, 255))
def test_a_constant_stays_constant(shape: tuple[int, int, int], scale: Fraction, dtype: Any, level: int) -> None:
    resized = resize_bicubic(np.full(shape, level, dtype), scale)
    assert resized.dtype == dtype
    np.testing.assert_allclose(resized, level, rtol=1e-6, atol=0 if np.issubdtype(dtype, np.integer) else 1e-12)


@given(images(), st.sampled_from(DYADIC))
def test_flips_commute_exactly_where_weights_are_exact(image: Any, scale: Fraction) -> None:
    resized = resize_bicubic(image, scale)
    for axis in (0, 1):
        if (image.shape[axis] * scale).denominator == 1:
            flipped = resize_bicubic(np.flip(image, axis), scale)
            np.testing.assert_array_equal(np.flip(flipped, axis), resized)


@given(images(np.float64, min_value=0, max_value=1), scales)
def test_flips_commute(image: Any, scale: Fraction) -> None:
    resized = resize_bicubic(image, scale)
    for axis in (0, 1):
        if (image.shape[axis] * scale).denominator == 1:
            flipped = resize_bicubic(np.flip(image, axis), scale)
            np.testing.assert_allclose(np.flip(flipped, axis), resized, atol=1e-12)


@given(images(st.sampled_from((np.uint8, np.uint16))))
def test_scale_one_changes_nothing(image: Any) -> None:
    np.testing.assert_array_equal(resize_bicubic(image, 1), image)


@given(images(), scales)
def test_channels_do_not_mix_and_a_grey_plane_is_one_of_them(image: Any, scale: Fraction) -> None:
    together = resize_bicubic(image, scale)
    for channel in range(image.shape[2]):
        plane = resize_bicubic(image[..., channel], scale)
        np.testing.assert_array_equal(together[..., channel], plane)
        np.testing.assert_array_equal(resize_bicubic(image[..., channel, None], scale)[..., 0], plane)


@given(images(np.uint8, min_value=64, max_value=191), scales)
def test_uint16_agrees_with_uint8_where_nothing_clips(image: Any, scale: Fraction) -> None:
    wide = resize_bicubic(image.astype(np.uint16), scale)
    assert wide.dtype == np.uint16
    np.testing.assert_array_equal(wide, resize_bicubic(image, scale))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_overshoot_is_clipped_not_wrapped(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    edge = np.zeros((16, 16), dtype)
    edge[:, 8:] = top
    big = resize_bicubic(edge, 4)
    assert (np.diff(big[32].astype(int)) >= -(top // 4)).all()
    assert {int(big.min()), int(big.max())} == {0, top}


@given(images(), scales)
def test_layout_in_memory_does_not_matter(image: Any, scale: Fraction) -> None:
    expected = resize_bicubic(image, scale)
    frozen = image[::-1, ::-1].copy()[::-1, ::-1]
    frozen.flags.writeable = False
    before = frozen.copy()
    np.testing.assert_array_equal(resize_bicubic(frozen, scale), expected)
    np.testing.assert_array_equal(resize_bicubic(np.asfortranarray(image), scale), expected)
    np.testing.assert_array_equal(frozen, before)


@pytest.mark.parametrize("scale", [0, -1, 5, 1.5, 0.2, 0.75, -0.5])
def test_other_scales_are_refused(scale: float) -> None:
    with pytest.raises(InputError, match="scale must be"):
        resize_bicubic(np.zeros((4, 4), np.uint8), scale)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), None, "half", [2]])
def test_a_scale_that_is_no_number_is_refused_as_well(scale: Any) -> None:
    with pytest.raises(InputError, match="scale must be"):
        resize_bicubic(np.zeros((4, 4), np.uint8), scale)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.uint8),
        np.zeros((4, 4, 0), np.uint8),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), np.bool_),
        np.zeros((4, 4), np.complex64),
        np.zeros((4, 4), object),
    ],
    ids=lambda image: f"{image.dtype}{list(image.shape)}",
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(InputError, match="expected a uint8, uint16 or float"):
        resize_bicubic(image, 2)


@pytest.mark.parametrize("image", [None, [[1, 2], [3, 4]], "photo.png", 3], ids=repr)
def test_what_is_no_array_is_refused(image: Any) -> None:
    with pytest.raises(InputError, match="expected a uint8, uint16 or float"):
        resize_bicubic(image, 2)
