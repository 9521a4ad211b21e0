"""Pairs from image files, and the figures of an upscaler on them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wdsr_edge import InputError
from wdsr_edge.datasets import PairFiles, list_pairs
from wdsr_edge.evaluation import (
    Pair,
    Score,
    TooSmallError,
    bicubic,
    evaluate,
    load_pairs,
    mean_score,
    read_pair,
    score,
    self_ensemble,
)
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


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_hr_is_cropped_to_a_multiple_of_the_scale(tmp_path: Path, scale: int) -> None:
    files = PairFiles(save(golden_frame()[:95, :91], tmp_path / "photo.png"), None)
    name, lr, hr = read_pair(files, scale)
    assert name == "photo"
    assert lr.shape[:2] == (95 // scale, 91 // scale)
    assert np.array_equal(hr, golden_frame()[: 95 // scale * scale, : 91 // scale * scale])
    assert np.array_equal(lr, bicubic(hr, 1 / scale))


def test_an_lr_file_is_taken_as_it_is(tmp_path: Path) -> None:
    frame = golden_frame()
    hr = save(frame[:95], tmp_path / "hr.png")
    lr = save(frame[:47, :64], tmp_path / "lr.png")
    assert np.array_equal(read_pair(PairFiles(hr, lr), 2).lr, frame[:47, :64])
    with pytest.raises(InputError, match=r"lr\.png is 64x47, and not 1/3 of .*hr\.png"):
        read_pair(PairFiles(hr, lr), 3)
    lr.write_text("no image")
    with pytest.raises(InputError, match=r"lr\.png: is not a PNG"):
        read_pair(PairFiles(hr, lr), 2)


def test_an_image_too_small_for_its_use_is_told_apart(tmp_path: Path) -> None:
    files = PairFiles(save(golden_frame()[:30, :17], tmp_path / "tiny.png"), None)
    assert read_pair(files, 2, least=8).lr.shape == (15, 8, 3)
    with pytest.raises(TooSmallError, match=r"tiny\.png is smaller than 18 pixels a side"):
        read_pair(files, 2, least=9)
    with pytest.raises(TooSmallError):
        read_pair(PairFiles(save(golden_frame()[:1, :1], tmp_path / "one.png"), None), 2)


def test_what_was_kept_is_not_made_again(tmp_path: Path) -> None:
    store: dict[tuple[str, str], Any] = {}

    def keep(source: Path, what: str, make: Any) -> Any:
        return store.setdefault((source.name, what), make() if (source.name, what) not in store else None)

    files = PairFiles(save(golden_frame(), tmp_path / "photo.png"), None)
    first = read_pair(files, 2, keep=keep)
    read_pair(files, 3, keep=keep)
    assert set(store) == {("photo.png", "image"), ("photo.png", "bicubic x2"), ("photo.png", "bicubic x3")}
    store["photo.png", "image"] = 255 - golden_frame()
    again = read_pair(files, 2, keep=keep)
    assert np.array_equal(again.hr, 255 - first.hr)
    assert np.array_equal(again.lr, first.lr)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_images_too_small_for_ssim_are_told(tmp_path: Path, scale: int) -> None:
    """The smallest that is kept has a score."""
    least = scale * (-(-11 // scale) + 2)
    save(golden_frame()[:least, :least], tmp_path / "good.png")
    save(golden_frame()[: least - 1, :least], tmp_path / "tiny.png")
    left_out: list[tuple[str, str]] = []
    found = load_pairs([tmp_path], scale, on_left_out=lambda path, reason: left_out.append((path.name, reason)))
    assert [pair.name for pair in found] == ["good"]
    assert left_out == [("tiny.png", f"{tmp_path / 'tiny.png'} is smaller than {least} pixels a side")]
    assert evaluate(lambda lr: bicubic(lr, scale), found)[0].ssim_y > 0.5
    with pytest.raises(InputError, match="no image that is large enough in"):
        load_pairs([tmp_path / "tiny.png"], scale)


def test_a_set_with_a_broken_image_is_refused(tmp_path: Path) -> None:
    """A mean over the others would not be the figure of the set."""
    save(golden_frame(), tmp_path / "good.png")
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        load_pairs([tmp_path], 2)


def test_grey_and_colour_make_pairs_alike(tmp_path: Path) -> None:
    """Set14 has a grey image, and its figures are computed on grey as RGB."""
    with Image.open(save(golden_frame(), tmp_path / "colour.png")) as image:
        image.convert("L").save(tmp_path / "grey.png")
    colour, grey = load_pairs([tmp_path], 2)
    assert grey.hr.shape == colour.hr.shape
    assert (grey.lr == grey.lr[..., :1]).all()


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
