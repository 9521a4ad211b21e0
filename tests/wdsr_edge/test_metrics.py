from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from wdsr_edge import InputError
from wdsr_edge.data.pairs import bicubic, load_pairs
from wdsr_edge.evaluation import evaluate, mean_score
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.metrics import difference, luma_bt601, psnr, ssim

pairs_of_images = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.tuples(*[arrays.arrays(np.uint8, (*size, 3))] * 2)
)


def flat(*levels: int, side: int = 16) -> Any:
    return np.full((side, side, 3), levels, np.uint8)


def test_psnr_by_hand() -> None:
    assert psnr(flat(0, 0, 0), flat(255, 255, 255)) == 0
    assert psnr(flat(7, 7, 7), flat(7, 7, 7)) == math.inf
    assert psnr(flat(100, 100, 100), flat(110, 90, 110)) == pytest.approx(28.1308036, abs=1e-6)  # 20 log10(255 / 10)
    assert psnr(flat(0, 0, 0), flat(3, 0, 0)) == pytest.approx(43.3595911, abs=1e-6)  # mean square 9 / 3
    one = flat(0, 0, 0, side=2)
    one[0, 0, 0] = 255
    assert psnr(one, flat(0, 0, 0, side=2)) == pytest.approx(10.7918125, abs=1e-6)  # 10 log10(12)


def test_psnr_does_not_wrap_around() -> None:
    assert psnr(flat(1, 1, 1), flat(255, 255, 255)) == pytest.approx(20 * math.log10(255 / 254))


def test_luma_is_studio_range() -> None:
    assert luma_bt601(flat(0, 0, 0)) == pytest.approx(16)
    assert luma_bt601(flat(255, 255, 255)) == pytest.approx(235)
    primaries = [float(luma_bt601(flat(*rgb))[0, 0]) for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert primaries == pytest.approx([81.481, 144.553, 40.966])


def test_psnr_on_luma_by_hand() -> None:
    """Black to white is 219 levels of Y; a change of one level of green is 128.553 / 255 of one."""
    assert psnr(flat(0, 0, 0), flat(255, 255, 255), luma=True) == pytest.approx(20 * math.log10(255 / 219))
    assert psnr(flat(9, 9, 9), flat(9, 10, 9), luma=True) == pytest.approx(20 * math.log10(255**2 / 128.553))


def test_shave_leaves_out_every_border() -> None:
    a = flat(50, 50, 50)
    for edge in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
        b = a.copy()
        b[edge] = 0
        assert psnr(a, b, shave=1) < math.inf
        assert psnr(a, b, shave=2) == math.inf
    b = a.copy()
    b[2, 2] = b[-3, -3] = 60
    assert psnr(a, b, shave=2) == pytest.approx(10 * math.log10(255**2 / (200 / 144)))
    assert psnr(a, b, shave=0) == psnr(a, b)


@given(pairs_of_images)
def test_psnr_is_symmetric_and_infinite_only_for_equal_images(pair: tuple[Any, Any]) -> None:
    a, b = pair
    assert psnr(a, b) == psnr(b, a)
    assert (psnr(a, b) == math.inf) == bool((a == b).all())
    assert psnr(a, a, luma=True) == math.inf


# structural_similarity of scikit-image 0.26.0 with channel_axis=2 (on luma_bt601 without), gaussian_weights=True,
# sigma=1.5, use_sample_covariance=False, data_range=255: golden_frame against itself shrunk and grown again.
SKIMAGE = {
    (2, 0, False): 0.9410962945289431,
    (2, 2, False): 0.9414546543464458,
    (2, 2, True): 0.956533106869505,
    (3, 0, False): 0.8858931168685779,
    (3, 3, False): 0.8857971804140387,
    (3, 3, True): 0.9054963011429097,
    (4, 0, False): 0.829207167460878,
    (4, 4, False): 0.8286927344326571,
    (4, 4, True): 0.8545363771890893,
}


@pytest.mark.parametrize(("scale", "shave", "luma"), SKIMAGE)
def test_ssim_is_that_of_scikit_image(scale: int, shave: int, luma: bool) -> None:
    frame = golden_frame()
    hr = frame[: 96 // scale * scale, : 128 // scale * scale]
    sr = bicubic(bicubic(hr, 1 / scale), scale)
    assert ssim(hr, sr, shave=shave, luma=luma) == pytest.approx(SKIMAGE[scale, shave, luma], abs=1e-9)


def test_ssim_of_a_negative_is_that_of_scikit_image() -> None:
    assert ssim(golden_frame(), 255 - golden_frame()) == pytest.approx(-0.07799158676888568, abs=1e-9)


def test_ssim_is_one_for_equal_images_only() -> None:
    frame = golden_frame()
    changed = frame.copy()
    changed[40, 40] ^= 64
    assert ssim(frame, frame) == pytest.approx(1)
    assert ssim(frame, changed) < 1 - 1e-5
    assert ssim(flat(3, 3, 3, side=11), flat(3, 3, 3, side=11)) == pytest.approx(1)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_bad_images_are_refused(measure: Any) -> None:
    good = flat(1, 2, 3)
    for bad in (good.astype(np.float32), good[..., :1], good[..., 0], np.dstack([good, good]), good[None], good[:0]):
        with pytest.raises(InputError):
            measure(bad, bad)
        with pytest.raises(InputError):
            measure(good, bad)
    with pytest.raises(InputError, match="differ in shape"):
        measure(good, good[:-1])
    for shave in (-1, 8, 100):
        with pytest.raises(InputError, match="shave"):
            measure(good, good, shave=shave)


def test_ssim_needs_room_for_a_window() -> None:
    assert ssim(golden_frame()[:15, :13], golden_frame()[:15, :13], shave=1) == pytest.approx(1)
    with pytest.raises(InputError, match="at least 11 pixels"):
        ssim(golden_frame()[:15, :12], golden_frame()[:15, :12], shave=1)


@given(pairs_of_images)
def test_difference_counts_values(pair: tuple[Any, Any]) -> None:
    a, b = pair
    apart = np.abs(a.astype(int) - b.astype(int))
    assert difference(a, b) == (psnr(a, b), apart.max(), np.mean(apart > 0))
    assert difference(b, a)[1:] == difference(a, b)[1:]


SET5 = {2: 33.67, 3: 30.40, 4: 28.43}
BSD100 = {2: 29.56, 3: 27.21, 4: 25.96}


@pytest.mark.parametrize(("scale", "expected"), SET5.items())
def test_bicubic_scores_on_set5_what_papers_print(shared_data: Path, scale: int, expected: float) -> None:
    scores = evaluate(lambda lr: bicubic(lr, scale), load_pairs([shared_data / "eval" / "Set5"], scale))
    assert len(scores) == 5
    assert mean_score(scores).psnr_y == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("scale", [3])
def test_bicubic_scores_on_bsd100_what_papers_print(shared_data: Path, scale: int) -> None:
    pairs = load_pairs([shared_data / "eval" / "BSD100"], scale)
    assert len(pairs) == 100
    scores = [psnr(bicubic(lr, scale), hr, shave=scale, luma=True) for _, lr, hr in pairs]
    assert float(np.mean(scores)) == pytest.approx(BSD100[scale], abs=0.01)
