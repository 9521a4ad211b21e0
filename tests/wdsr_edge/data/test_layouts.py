"""Which LR file belongs to which HR file in the layouts there are, and where a named set lies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdsr_edge import InputError
from wdsr_edge.data.layouts import PairFiles, find_dataset, list_pairs
from wdsr_edge.data.pairs import read_pair


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WDSR_EDGE_DATA", raising=False)


def make(*paths: str) -> None:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def pairs(*files: tuple[str, str | None]) -> list[PairFiles]:
    return [PairFiles(Path(hr), None if lr is None else Path(lr)) for hr, lr in files]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_div2k_as_its_authors_pack_it(split: Any, scale: int) -> None:
    for part, first in (("train", 1), ("valid", 801)):
        for number in (first, first + 1):
            make(f"d/DIV2K_{part}_HR/{number:04}.png")
            make(*(f"d/DIV2K_{part}_LR_bicubic/X{s}/{number:04}x{s}.png" for s in (2, 3, 4)))
    first = 1 if split == "train" else 801
    expected = pairs(
        *(
            (f"d/DIV2K_{split}_HR/{n:04}.png", f"d/DIV2K_{split}_LR_bicubic/X{scale}/{n:04}x{scale}.png")
            for n in (first, first + 1)
        )
    )
    assert list_pairs("d", scale, split) == expected
    assert list_pairs(f"d/DIV2K_{split}_HR", scale, "train") == expected


def test_the_test_sets_of_edsr() -> None:
    make("Set5/HR/baby.png", "Set5/HR/bird.png", "Set5/LR_bicubic/X2/babyx2.png", "Set5/LR_bicubic/X3/birdx3.png")
    hr = "Set5/HR/baby.png", "Set5/HR/bird.png"
    assert list_pairs("Set5", 2) == pairs((hr[0], "Set5/LR_bicubic/X2/babyx2.png"), (hr[1], None))
    assert list_pairs("Set5", 3) == pairs((hr[0], None), (hr[1], "Set5/LR_bicubic/X3/birdx3.png"))
    assert list_pairs("Set5/HR", 4) == pairs((hr[0], None), (hr[1], None))


def test_the_test_sets_of_selfexsr() -> None:
    folder = "Urban100/image_SRF_2"
    make(*(f"{folder}/img_{n:03}_SRF_2_{what}.png" for n in (1, 2) for what in ("HR", "LR", "bicubic", "SelfExSR")))
    assert list_pairs("Urban100", 2) == pairs(
        *((f"{folder}/img_{n:03}_SRF_2_HR.png", f"{folder}/img_{n:03}_SRF_2_LR.png") for n in (1, 2))
    )
    with pytest.raises(InputError, match="Urban100: no images"):
        list_pairs("Urban100", 4)
    Path(f"{folder}/img_001_SRF_2_LR.png").unlink()
    assert list_pairs("Urban100", 2)[0] == PairFiles(Path(f"{folder}/img_001_SRF_2_HR.png"), None)


def test_any_other_folder_is_hr_images_in_the_order_of_their_names() -> None:
    make("photos/b.PNG", "photos/a.jpg", "photos/c.tiff", "photos/notes.txt", "photos/sub/d.png")
    assert list_pairs("photos", 2) == pairs(("photos/a.jpg", None), ("photos/b.PNG", None), ("photos/c.tiff", None))
    assert list_pairs("photos/a.jpg", 2) == pairs(("photos/a.jpg", None))


def test_lr_of_another_kind_than_the_hr_is_found() -> None:
    make("d/HR/a.png", "d/LR_bicubic/X2/ax2.jpg")
    assert list_pairs("d", 2) == pairs(("d/HR/a.png", "d/LR_bicubic/X2/ax2.jpg"))


@given(st.sets(st.text("abx234.", min_size=1, max_size=4).filter(lambda name: name[0] != "."), min_size=1))
def test_no_name_is_taken_for_another(names: Iterable[str]) -> None:
    """Not even names that look like an LR file's, such as ``ax2``."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            make(f"{folder}/HR/{name}.png", f"{folder}/LR_bicubic/X2/{name}x2.png")
        for hr, lr in list_pairs(folder, 2):
            assert lr is not None
            assert lr.name == f"{hr.stem}x2.png"


def test_a_part_that_is_missing_is_named() -> None:
    make("d/DIV2K_train_HR/0001.png")
    with pytest.raises(InputError, match="d has no DIV2K_valid_HR: fetch it"):
        list_pairs("d", 2)
    assert len(list_pairs("d", 2, "train")) == 1


@pytest.mark.parametrize("layout", ["HR", "DIV2K_valid_HR", "image_SRF_2", "."])
def test_a_folder_without_images_is_refused(layout: str) -> None:
    make(f"d/{layout}/notes.txt")
    with pytest.raises(InputError, match="no images"):
        list_pairs("d", 2)
    with pytest.raises(InputError, match="no such file or folder"):
        list_pairs("missing", 2)


def test_selfexsr_without_hr_is_refused() -> None:
    make("d/image_SRF_2/img_001_SRF_2_LR.png")
    with pytest.raises(InputError, match="no images that end in _HR"):
        list_pairs("d", 2)


def test_a_set_is_found_in_the_folder_or_one_below_whatever_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    make("sets/DIV2K/x", "sets/eval/Set5/x", "sets/eval/deep/Set14/x")
    assert find_dataset("div2k", Path("sets")) == Path("sets/DIV2K")
    assert find_dataset("SET5", Path("sets")) == Path("sets/eval/Set5")
    with pytest.raises(InputError, match=r"Set14: .* in sets, which holds DIV2K, eval"):
        find_dataset("Set14", Path("sets"))
    with pytest.raises(InputError, match="set WDSR_EDGE_DATA"):
        find_dataset("Set5")
    monkeypatch.setenv("WDSR_EDGE_DATA", "sets")
    assert find_dataset("Set5") == Path("sets/eval/Set5")
    make("other/Set5/x")
    assert find_dataset("Set5", Path("other")) == Path("other/Set5")


def test_the_nearer_of_two_sets_of_one_name_is_found() -> None:
    make("sets/a/Set5/x", "sets/Set5/x")
    assert find_dataset("Set5", Path("sets")) == Path("sets/Set5")


def test_a_path_is_what_it_says() -> None:
    make("Set5/x", "sets/Set5/x")
    assert find_dataset("Set5", Path("sets")) == Path("Set5")
    assert find_dataset("missing/Set5", Path("sets")) == Path("missing/Set5")


def test_an_empty_or_missing_root_holds_nothing() -> None:
    for root in (Path("missing"), Path()):
        with pytest.raises(InputError, match="which holds nothing"):
            find_dataset("Set5", root)


def test_the_lr_of_div2k_is_what_the_resampler_makes(shared_data: Path) -> None:
    """So that a run is the same with the LR files and without."""
    (files,) = list_pairs(shared_data / "div2k_sample", 2, "train")
    assert files.lr is not None
    given_, made = read_pair(files, 2), read_pair(files._replace(lr=None), 2)
    assert np.array_equal(given_.lr, made.lr)
    assert np.array_equal(given_.hr, made.hr)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_lr_of_set5_as_matlab_made_it_is_what_the_resampler_makes(shared_data: Path, scale: int) -> None:
    found = list_pairs(shared_data / "golden" / "Set5_matlab", scale)
    assert len(found) == 5
    for files in found:
        assert files.lr is not None
        assert np.array_equal(read_pair(files, scale).lr, read_pair(files._replace(lr=None), scale).lr)
