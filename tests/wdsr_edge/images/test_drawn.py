"""Drawn pictures: the same each time, what their kind says, and refused where they make no sense."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wdsr_edge import InputError
from wdsr_edge.images.drawn import KINDS, SHARP, Kind, draw


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**40),
    height=st.integers(16, 80),
    width=st.integers(16, 80),
)
def test_any_size_and_seed_is_a_picture_and_the_same_again(kind: Kind, seed: int, height: int, width: int) -> None:
    image = draw(kind, seed, (height, width))
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, draw(kind, seed, (height, width)))


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_give_other_pictures(kind: Kind) -> None:
    found = {hashlib.sha256(draw(kind, seed, (64, 64)).tobytes()).hexdigest() for seed in range(12)}
    assert len(found) >= 10


@pytest.mark.parametrize("kind", SHARP)
def test_sharp_kinds_have_edges_as_no_photograph_has(kind: Kind) -> None:
    steps = [np.abs(np.diff(draw(kind, seed, (128, 128)).astype(int), axis=1)).max() for seed in range(8)]
    assert np.median(steps) > 85


def test_flats_hold_saturated_colours_and_borders_that_are_exact() -> None:
    images = [draw("flats", seed, (64, 64)) for seed in range(60)]
    colours = {tuple(colour) for image in images for colour in np.unique(image.reshape(-1, 3), axis=0).tolist()}
    assert {(0, 255, 0), (255, 0, 0), (255, 255, 255)} <= colours
    assert all(len(np.unique(image.reshape(-1, 3), axis=0)) <= 8 for image in images)


def test_gradients_run_without_steps() -> None:
    for seed in range(8):
        assert np.abs(np.diff(draw("gradients", seed, (256, 256)).astype(int), axis=0)).max() <= 8


@pytest.mark.parametrize("size", [(15, 64), (64, 0)])
def test_a_size_that_is_too_small_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="16 pixels"):
        draw("text", 0, size)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="kind must be one of text"):
        draw("photo", 0)  # type: ignore[arg-type]
