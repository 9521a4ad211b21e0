"""Degradations: written as text or drawn from a recipe, each what its definition says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from wdsr_edge import InputError
from wdsr_edge.images.degradation import AFTER, BUILT_IN, LENS, STEPS, VIDEO, Degradation, Recipe, read_recipe
from wdsr_edge.images.degradation_steps import RESIZES, filmed
from wdsr_edge.images.files import Rgb
from wdsr_edge.images.resampler import resize_bicubic
from wdsr_edge.images.samples import frame_of_size


def degraded(text: str, truth: Rgb, scale: int = 2, seed: int = 0) -> Rgb:
    lr, shown = Degradation.parse(text)(truth, scale, np.random.default_rng(seed))
    assert lr.dtype == np.uint8
    assert [side * scale for side in lr.shape[:2]] == list(shown.shape[:2])
    return lr


@st.composite
def written(draw: st.DrawFn) -> str:
    """Any degradation whose numbers are modest, in the order in which a picture is taken."""
    parts = draw(st.lists(st.sampled_from([name for name in AFTER if name not in VIDEO]), max_size=3))
    parts = [*draw(st.lists(st.sampled_from(list(RESIZES)), max_size=1)), *parts]
    parts = [*draw(st.lists(st.sampled_from(list(LENS)), max_size=1)), *parts]
    texts = []
    for name in parts:
        needed = [argument for argument in STEPS[name] if argument.default is None]
        numbers = [draw(st.floats(max(a.low, 0), min(a.high, 5))) for a in needed]
        texts.append(":".join([name, *(f"{max(number, 1):.3f}" for number in numbers)]))
    return "+".join(texts or ["bicubic"])


@settings(max_examples=60, deadline=None)
@given(
    text=written(),
    scale=st.integers(2, 4),
    height=st.integers(8, 20),
    width=st.integers(8, 20),
    seed=st.integers(0, 99),
)
def test_any_degradation_of_any_size_is_the_same_again(
    text: str, scale: int, height: int, width: int, seed: int
) -> None:
    truth = frame_of_size(height * scale, width * scale)
    first = degraded(text, truth, scale, seed)
    assert first.shape == (height, width, 3)
    assert np.array_equal(first, degraded(text, truth, scale, seed))


@settings(max_examples=60, deadline=None)
@given(text=written(), scale=st.integers(2, 4), colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_one_colour_stays_one_colour_but_for_noise_and_codecs(
    text: str, scale: int, colour: tuple[int, int, int]
) -> None:
    steps = [part.split(":")[0] for part in text.split("+")]
    truth = np.full((16 * scale, 16 * scale, 3), colour, np.uint8)
    if not {"noise", "sensor", "bayer", "jpeg", "chroma"} & {*steps}:
        assert np.abs(degraded(text, truth, scale).astype(int) - truth[:16, :16]).max() <= 1


def test_what_is_named_is_what_is_done() -> None:
    truth = frame_of_size(60, 80)
    wide = truth.astype(float)
    assert np.array_equal(degraded("bicubic", truth), resize_bicubic(truth, 1 / 2))
    means = np.floor(wide.reshape(30, 2, 40, 2, 3).mean((1, 3)) + 0.5)
    assert np.array_equal(degraded("area", truth), means)
    assert np.array_equal(degraded("decimation", frame_of_size(60, 60), 3), frame_of_size(60, 60)[1::3, 1::3])
    pillow = Image.fromarray(truth).resize((40, 30), Image.Resampling.BILINEAR)
    assert np.array_equal(degraded("bilinear", truth), np.asarray(pillow))


@pytest.mark.parametrize("axis", [0, 1])
def test_cubic_without_antialias_has_taps_of_sixteenths(axis: int) -> None:
    """(-1, 9, 9, -1) / 16 at LR centres."""
    line = frame_of_size(64, 64)[:, 5]
    truth = np.moveaxis(np.broadcast_to(line[:, None], (64, 64, 3)), 0, axis)
    wide = line.astype(float)
    taps = (-wide[1:60:2] + 9 * wide[2:61:2] + 9 * wide[3:62:2] - wide[4:63:2]) / 16
    found = np.moveaxis(degraded("cubic", np.ascontiguousarray(truth)), axis, 0)[1:-1, 9]
    assert np.abs(found - taps.clip(0, 255)).max() <= 0.51


def test_a_lens_alone_is_sampled_at_the_middle_of_each_pixel() -> None:
    """By 16 taps each way, written out."""
    truth = frame_of_size(48, 48)
    taps = np.exp(-((np.arange(16) - 7.5) ** 2) / (2 * 1.2**2))
    taps /= taps.sum()
    padded = np.pad(truth.astype(float), ((8, 8), (8, 8), (0, 0)), mode="symmetric")
    y, x = 10, 17
    part = padded[2 * y + 8 - 7 : 2 * y + 8 + 9, 2 * x + 8 - 7 : 2 * x + 8 + 9]
    expected = np.einsum("yxc,y,x->c", part, taps, taps)
    assert np.abs(degraded("blur:1.2", truth)[y, x] - expected).max() <= 0.52


def test_a_turned_blur_is_turned() -> None:
    truth = np.zeros((64, 64, 3), np.uint8)
    truth[32, 32] = 255
    flat, upright = (degraded(f"blur:0.5:4:{turn}+bicubic", truth).astype(float)[..., 0] for turn in (0, 90))
    assert flat.sum(0).std() != pytest.approx(upright.sum(0).std(), rel=0.2)
    assert np.abs(flat - upright.T).max() <= 1


@pytest.mark.parametrize(
    ("text", "variance"),
    [("noise:4", 16), ("sensor:2:0.1", 4 + 12.8), ("sensor:3:0:1", 9), ("bayer:2:0.1", None)],
)
def test_noise_has_the_variance_that_is_asked_for(text: str, variance: float | None) -> None:
    truth = np.full((400, 400, 3), 128, np.uint8)
    noise = degraded(text, truth).astype(float) - 128
    if variance is not None:
        assert noise.var() == pytest.approx(variance + 1 / 12, rel=0.05)
    alike = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    beside = np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]
    expected = {"noise:4": (0, 0), "sensor:2:0.1": (0.36, 0), "sensor:3:0:1": (1, 0)}.get(text)
    if expected is None:  # interpolated between pixels of one colour
        assert beside > 0.25
    else:
        assert (alike, beside) == pytest.approx(expected, abs=0.03)


def test_sharpening_gives_halos_and_4_2_0_takes_colour_alone() -> None:
    truth = np.full((64, 64, 3), 80, np.uint8)
    truth[:, 32:] = 160
    halo = degraded("area+sharpen:1", truth)
    assert halo.max() > 165
    assert halo.min() < 75
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = (255, 0, 0)
    colours = degraded("area+chroma", stripes)
    assert np.ptp(colours[..., 0]) < 200  # a red of one pixel runs into the next


def test_codecs_cost_what_their_numbers_say() -> None:
    truth = frame_of_size(128, 128)
    for codec, good, bad in (("jpeg", 95, 20), ("h264", 10, 40), ("h265", 10, 40)):
        errors = []
        for quality in (good, bad):
            degradation = Degradation.parse(f"{codec}:{quality}")
            lr, shown = degradation(truth, 2, np.random.default_rng(0))
            errors.append(np.abs(lr.astype(int) - resize_bicubic(shown, 1 / 2)).mean())
        assert errors[0] < 3 < errors[1]


@pytest.mark.parametrize("motion", [(1, 3), (-1, -3), (0, 0), (2, -1)])
def test_a_filmed_picture_shows_the_truth_that_it_is_given_with(motion: tuple[int, int]) -> None:
    truth = frame_of_size(160, 180)
    down, right = motion
    lr, shown = Degradation.parse(f"area+h264:1:{down}:{right}")(truth, 2, np.random.default_rng(0))
    assert shown.shape == ((160 - 5 * abs(down)) // 2 * 2, (180 - 5 * abs(right)) // 2 * 2, 3)
    plain = degraded("area", shown)
    assert np.abs(lr.astype(int).mean(2) - plain.mean(2)).mean() < 2


@settings(max_examples=8, deadline=None)
@example(height=32, width=32, codec="h265")
@given(height=st.integers(1, 40), width=st.integers(1, 40), codec=st.sampled_from(VIDEO))
def test_any_size_is_filmed(height: int, width: int, codec: str) -> None:
    frames = [frame_of_size(height, width), frame_of_size(height, width)[::-1], frame_of_size(height, width)]
    found = filmed(frames, codec, 5)
    assert all(np.array_equal(found, filmed(frames, codec, 5)) for _ in range(4))
    assert found.shape == (height, width, 3)
    assert np.abs(found.astype(int).mean(2) - frames[0].mean(2)).mean() < 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown step ''"),
        ("jpg:50", "unknown step 'jpg', there are blur"),
        ("jpeg", "jpeg takes 1 to 1 numbers, such as jpeg:QUALITY"),
        ("sensor:1", "sensor takes 2 to 3 numbers, such as sensor:READ:SHOT"),
        ("jpeg:50:3", "jpeg takes 1 to 1 numbers"),
        ("jpeg:0", "quality must be a number from 1 to 100, or a range such as 1..100, got '0'"),
        ("jpeg:nan", "quality must be a number"),
        ("jpeg:90..30", "got '90..30'"),
        ("jpeg:30..", "got '30..'"),
        ("noise:inf", "sigma must be a number"),
        ("jpeg:50+area", "area must come before jpeg, and once"),
        ("area+bicubic", "bicubic must come before"),
        ("area+blur:1", "blur must come first, and once"),
        ("blur:1+defocus:1", "defocus must come first, and once"),
        ("h264:20+h265:20", "a picture is filmed once"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Degradation.parse(text)


def test_a_picture_too_small_to_be_filmed_in_motion_is_refused() -> None:
    with pytest.raises(InputError, match="40x40 is too small to be filmed in motion"):
        degraded("h264:20", frame_of_size(40, 40))


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


def test_recipes_that_ship_draw_what_they_name() -> None:
    assert {path.stem for path in BUILT_IN.glob("*.toml")} == {"camera", "scan"}
    for name in ("camera", "scan"):
        found = read_recipe(name)
        random = np.random.default_rng(0)
        drawn = [found.draw(random) for _ in range(2000)]
        assert sum(one is None for one in drawn) / 2000 == pytest.approx(found.clean, abs=0.03)
        names = {step.name for one in drawn if one for step in one.after} | {one.resize for one in drawn if one}
        assert names >= {step.name for stage in found.stages for step in stage.one_of} - {*LENS}


def test_a_recipe_draws_the_same_for_a_seed(recipe: Callable[[str], Path]) -> None:
    found = read_recipe(recipe('[[stage]]\none_of = ["jpeg:30..90", "noise:1..9", "h264:20:-3..3:5"]\n'))
    assert found.clean == 0
    assert found.reach == 25
    one, again = ([found.draw(np.random.default_rng(seed)) for seed in range(20)] for _ in range(2))
    assert one == again
    assert len({repr(drawn) for drawn in one}) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a recipe has tables [[stage]], at least one"),
        ("clean = 2\n[[stage]]\none_of = ['area']", "clean must be a number from 0 to 1, got 2"),
        ("clean = true\n[[stage]]\none_of = ['area']", "clean must be a number from 0 to 1, got True"),
        ("dirty = 1\n[[stage]]\none_of = ['area']", "unknown key 'dirty': a recipe has clean and [[stage]]"),
        ("[[stage]]\nshare = 1", "one_of must be a list of steps"),
        ("[[stage]]\none_of = []", "one_of must be a list of steps"),
        ("[[stage]]\none_of = [3]", "one_of must be a list of steps"),
        ("[[stage]]\none_of = ['area']\nodds = 1", "unknown key 'odds': a stage has share and one_of"),
        ("[[stage]]\none_of = ['area']\nshare = -1", "share must be a number from 0 to 1, got -1"),
        ("[[stage]]\none_of = ['jpeg:900']", "quality must be a number from 1 to 100"),
        ("[[stage]]\none_of = ['jpeg:90', 'area']", "stages must be at most one of lenses"),
        ("[[stage]]\none_of = ['jpeg:90']\n[[stage]]\none_of = ['area']", "stages must be at most one of lenses"),
        ("[[stage]]\none_of = ['area']\n[[stage]]\none_of = ['cubic']", "stages must be at most one of lenses"),
        ("[[stage]]\none_of = ['h264:9']\n[[stage]]\none_of = ['h265:9']", "a picture is filmed once"),
        ("stage = 3", "a recipe has tables [[stage]], at least one"),
        ("[[stage", "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_refused(recipe: Callable[[str], Path], text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        read_recipe(recipe(text))


def test_an_unknown_recipe_names_those_that_ship() -> None:
    with pytest.raises(InputError, match=r"no recipe 'phone': expected a TOML file or one of camera, scan"):
        read_recipe("phone")


def test_a_recipe_is_all_there_is(recipe: Callable[[str], Path]) -> None:
    """What two files mean alike is equal, so that a run that goes on can tell."""
    first = read_recipe(recipe("[[stage]]\none_of = ['jpeg:30']"))
    assert first == read_recipe(recipe("clean = 0.0\n[[stage]]\nshare = 1\none_of = ['jpeg:30.0']"))
    assert isinstance(first, Recipe)
