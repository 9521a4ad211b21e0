"""Pairs from image files, and the figures of an upscaler on them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wdsr_edge import InputError
from wdsr_edge.data.layouts import list_pairs
from wdsr_edge.data.pairs import Pair, bicubic, load_pairs, read_pair
from wdsr_edge.evaluation import Score, evaluate, mean_score, score, self_ensemble
from wdsr_edge.images.samples import PHOTOS, golden_frame
from wdsr_edge.metrics import psnr, ssim

Frame = NDArray[np.uint8]

turns = st.tuples(st.integers(0, 3), st.sampled_from((1, -1)))


def turn(frame: Frame, how: tuple[int, int]) -> Frame:
    turned: Frame = np.rot90(frame, how[0])[:, :: how[1]]
    return turned


def save(frame: Frame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path)
    return path


def nearest(frame: Frame) -> Frame:
    return frame.repeat(2, axis=0).repeat(2, axis=1)


def lopsided(frame: Frame) -> Frame:
    """An upscaler that shifts the picture down and to the right."""
    return np.roll(nearest(frame), (1, 2), axis=(0, 1))


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return load_pairs([PHOTOS], 2)


def test_evaluation_of_ground_truth_and_bicubic(pairs: list[Pair]) -> None:
    truth = {pair.lr.tobytes(): pair.hr for pair in pairs}
    perfect = mean_score(evaluate(lambda lr: truth[lr.tobytes()], pairs))
    assert perfect.psnr_y == float("inf")
    assert perfect.ssim_y == pytest.approx(1)
    plain = mean_score(evaluate(lambda lr: bicubic(lr, 2), pairs))
    assert 25 < plain.psnr_rgb < plain.psnr_y < 45


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_score_shaves_the_scale(scale: int) -> None:
    hr = golden_frame()[:96, :96]
    pair = Pair("golden", bicubic(hr, 1 / scale), hr)
    sr = bicubic(pair.lr, scale)
    for edge in (np.s_[:scale], np.s_[:, -scale:]):
        sr[edge] = 0
    found = score(pair, sr)
    inner = slice(scale, -scale)
    for luma, figures in ((True, (found.psnr_y, found.ssim_y)), (False, (found.psnr_rgb, found.ssim_rgb))):
        expected = psnr(sr[inner, inner], hr[inner, inner], luma=luma), ssim(sr, hr, shave=scale, luma=luma)
        assert figures == pytest.approx(expected)


def test_a_result_of_another_size_is_named(pairs: list[Pair]) -> None:
    with pytest.raises(InputError, match=r"chelsea: .*differ in shape"):
        evaluate(lambda lr: lr, pairs)


def test_the_mean_is_of_each_figure() -> None:
    found = mean_score([Score("a", 30, 20, 0.5, 0.25), Score("b", 40, 30, 1, 0.75)])
    assert found == Score("mean", 35, 25, 0.75, 0.5)
    assert mean_score([Score("a", math.inf, 1, 1, 1), Score("b", 1, 1, 1, 1)]).psnr_y == math.inf


@given(turns)
def test_an_ensemble_sees_every_orientation_alike(how: tuple[int, int]) -> None:
    """Turning the frame turns the result, whatever the upscaler does to one side."""
    frame = golden_frame()[:16, :24]
    upscale = self_ensemble(lopsided)
    assert np.array_equal(upscale(turn(frame, how)), turn(upscale(frame), how))


def test_an_upscaler_that_sees_every_orientation_alike_is_its_own_ensemble() -> None:
    assert np.array_equal(self_ensemble(nearest)(golden_frame()), nearest(golden_frame()))


def test_an_ensemble_asks_eight_times_and_rounds_the_mean() -> None:
    asked: list[bytes] = []

    def upscale(frame: Frame) -> Frame:
        asked.append(frame.tobytes())
        return np.full_like(nearest(frame), len(asked))

    assert np.unique(self_ensemble(upscale)(golden_frame())) == [5]  # the mean of 1 to 8 is 4.5
    assert len(set(asked)) == 8


BSD100 = {2: 29.56, 4: 25.96}


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "expected"), BSD100.items())
def test_bicubic_scores_on_bsd100_what_papers_print(shared_data: Path, scale: int, expected: float) -> None:
    """As for x3, which test_metrics has."""
    scores = []
    for files in list_pairs(shared_data / "eval" / "BSD100", scale):
        _, lr, hr = read_pair(files, scale)
        scores.append(psnr(bicubic(lr, scale), hr, shave=scale, luma=True))
    assert len(scores) == 100
    assert float(np.mean(scores)) == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "expected"), [(2, 33.67), (3, 30.40), (4, 28.43)])
def test_bicubic_scores_on_matlabs_own_lr_what_papers_print(shared_data: Path, scale: int, expected: float) -> None:
    scores = evaluate(lambda lr: bicubic(lr, scale), load_pairs([shared_data / "golden" / "Set5_matlab"], scale))
    assert len(scores) == 5
    assert mean_score(scores).psnr_y == pytest.approx(expected, abs=0.01)
