"""A low-resolution image and its ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wdsr_edge import InputError
from wdsr_edge.data.layouts import PairFiles
from wdsr_edge.data.pairs import TooSmallError, bicubic, load_pairs, read_pair
from wdsr_edge.evaluation import evaluate
from wdsr_edge.images.files import Rgb
from wdsr_edge.images.samples import golden_frame


def save(frame: Rgb, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(path)
    return path


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
