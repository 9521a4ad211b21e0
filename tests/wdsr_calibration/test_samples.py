"""Calibration sets: drawn the same each time, never from what cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wdsr_calibration import CalibrationSet, SampleConfig, sample_folders, sample_manifest
from wdsr_calibration.samples import DRAWN_HELD_OUT, LARGEST, PHOTOGRAPHS, drawn, find_manifest
from wdsr_edge import InputError
from wdsr_edge.data.layouts import list_pairs
from wdsr_edge.data.pairs import Pair, bicubic
from wdsr_edge.images.drawn import KINDS
from wdsr_edge.images.files import read_rgb
from wdsr_edge.images.samples import golden_frame, sample_frames

FEW = SampleConfig(crops=12, size=16, drawn=2, held_out=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine pieces of the shipped photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, frame in sample_frames().items():
        for i in range(3):
            Image.fromarray(frame[i * 40 : i * 40 + 80, 30:130]).save(folder / f"{i}-{Path(name).stem}.png")
    return folder


def same_pairs(a: Sequence[Pair], b: Sequence[Pair]) -> bool:
    return len(a) == len(b) and all(
        x.name == y.name and np.array_equal(x.lr, y.lr) and np.array_equal(x.hr, y.hr)
        for x, y in zip(a, b, strict=True)
    )


def same(a: CalibrationSet, b: CalibrationSet) -> bool:
    return (
        all(same_pairs(a.crops[content], b.crops[content]) for content in (*a.crops, *b.crops))
        and all(same_pairs(a.held_out[content], b.held_out[content]) for content in (*a.held_out, *b.held_out))
        and (a.sha256, a.images, a.origin) == (b.sha256, b.images, b.origin)
    )


def cut_from(crop: np.ndarray, image: np.ndarray) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)[..., 0, :, :, :]
    return bool((windows == crop).all((-3, -2, -1)).any())


def test_crops_are_of_the_lr_images_and_none_of_those_held_out(photos: Path) -> None:
    found = sample_folders([photos], 2, FEW)
    assert len(found.crops[PHOTOGRAPHS]) == 12
    assert all(crop.lr.shape == (16, 16, 3) and crop.lr.dtype == np.uint8 for crop in found.crops[PHOTOGRAPHS])
    held_out = {pair.name for pair in found.held_out[PHOTOGRAPHS]}
    assert len(held_out) == 2
    rest = [bicubic(read_rgb(file.hr), 1 / 2) for file in list_pairs(photos, 2) if file.hr.stem not in held_out]
    assert all(any(cut_from(crop.lr, lr) for lr in rest) for crop in found.crops[PHOTOGRAPHS])
    for pair in found.held_out[PHOTOGRAPHS]:
        assert pair.hr.shape[:2] == (pair.lr.shape[0] * 2, pair.lr.shape[1] * 2)


def test_every_image_gives_its_share(photos: Path) -> None:
    found = sample_folders([photos], 2, SampleConfig(crops=7, size=16, drawn=0, held_out=2))
    images = [bicubic(read_rgb(file.hr), 1 / 2) for file in list_pairs(photos, 2)]
    assert (
        len({next(i for i, lr in enumerate(images) if cut_from(crop.lr, lr)) for crop in found.crops[PHOTOGRAPHS]}) == 7
    )


def test_it_is_the_same_each_time_and_seeds_differ(photos: Path) -> None:
    first = sample_folders([photos], 2, FEW)
    assert same(first, sample_folders([photos], 2, FEW))
    other = sample_folders([photos], 2, SampleConfig(12, 16, 2, 2, seed=1))
    assert not same(first, other)


def test_hashes_are_of_the_files(photos: Path) -> None:
    found = sample_folders([photos], 2, FEW)
    for name, digest in found.images.items():
        assert hashlib.sha256((photos / name).read_bytes()).hexdigest() == digest
    Image.fromarray(golden_frame()[:80, :100]).save(photos / next(iter(found.images)))
    assert sample_folders([photos], 2, FEW).sha256 != found.sha256


def test_lr_files_of_a_layout_are_used(tmp_path: Path) -> None:
    frame = golden_frame()
    for i in range(4):
        hr = np.roll(frame[:96, :96], i * 20, axis=1)
        for place, image in (
            (f"DIV2K_train_HR/000{i}.png", hr),
            (f"DIV2K_train_LR_bicubic/X2/000{i}x2.png", 255 - bicubic(hr, 1 / 2)),
        ):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / place)
    found = sample_folders([tmp_path], 2, SampleConfig(6, 16, 0, 1))
    assert {"0001.png", "0001x2.png"} <= found.images.keys()
    lrs = [read_rgb(path) for path in (tmp_path / "DIV2K_train_LR_bicubic/X2").iterdir()]
    assert all(any(cut_from(crop.lr, lr) for lr in lrs) for crop in found.crops[PHOTOGRAPHS])


def test_what_cannot_be_used_is_told_and_left_out(photos: Path) -> None:
    (photos / "0-broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.fromarray(golden_frame()[:20, :20]).save(photos / "0-tiny.png")
    Image.new("RGB", (80, 80), (9, 9, 9)).save(photos / "0-flat.png")
    told: dict[str, str] = {}
    found = sample_folders([photos], 2, FEW, on_skipped=lambda path, reason: told.update({path.name: reason}))
    assert len(found.crops[PHOTOGRAPHS]) == 12
    assert not {"0-broken.png", "0-tiny.png", "0-flat.png"} & found.images.keys()
    assert set(told) <= {"0-broken.png", "0-tiny.png", "0-flat.png"}
    assert "smaller than 32 pixels" in told["0-tiny.png"]
    assert "one colour" in told["0-flat.png"]


def test_a_large_held_out_image_is_cut_to_its_middle(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4 * LARGEST, 3 * LARGEST, 3), np.uint8)
    for i in range(2):
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    (pair,) = sample_folders([tmp_path], 2, SampleConfig(4, 16, 0, 8)).held_out[PHOTOGRAPHS]
    assert pair.lr.shape == (LARGEST, LARGEST, 3)
    np.testing.assert_array_equal(pair.hr, noise[LARGEST : 3 * LARGEST, LARGEST // 2 : 5 * LARGEST // 2])


def test_one_image_is_calibrated_and_measured_on(photos: Path) -> None:
    found = sample_folders([photos / "0-chelsea.png"], 2, FEW)
    assert len(found.crops[PHOTOGRAPHS]) == 12
    assert [pair.name for pair in found.held_out[PHOTOGRAPHS]] == ["0-chelsea"]
    assert len({crop.lr.tobytes() for crop in found.crops[PHOTOGRAPHS]}) == 12


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no images"),
        (lambda folder: Image.fromarray(golden_frame()[:34, :34]).save(folder / "a.png"), "4 different crops"),
        (lambda folder: Image.new("RGB", (90, 90)).save(folder / "a.png"), "0 different crops"),
        (lambda folder: Image.fromarray(golden_frame()[:9, :9]).save(folder / "a.png"), "0 different crops"),
        (lambda folder: (folder / "a.png").write_bytes(b"no image"), "0 different crops"),
    ],
)
def test_too_little_is_refused(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=words):
        sample_folders([tmp_path], 2, FEW)


@pytest.mark.parametrize("options", [{"crops": 0}, {"size": 8}, {"held_out": 0}, {"seed": -1}, {"crops": 1.5}])
def test_bad_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        SampleConfig(**options)


MANIFEST = """
size = 16
crops = [["0-chelsea", 0.0, 0.0], ["1-chelsea", 1.0, 1.0], ["1-chelsea", 0.5, 0.25]]
held_out = ["2-chelsea"]
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "set.toml"
    path.write_text(MANIFEST)
    return path


def test_a_manifest_names_images_and_crops(photos: Path, manifest: Path) -> None:
    found = sample_manifest(manifest, photos, 2)
    first, second = (bicubic(read_rgb(photos / f"{i}-chelsea.png"), 1 / 2) for i in (0, 1))
    np.testing.assert_array_equal(found.crops[PHOTOGRAPHS][0].lr, first[:16, :16])
    np.testing.assert_array_equal(found.crops[PHOTOGRAPHS][1].lr, second[-16:, -16:])
    np.testing.assert_array_equal(found.crops[PHOTOGRAPHS][2].lr, second[12:28, 8:24])
    assert [pair.name for pair in found.held_out[PHOTOGRAPHS]] == ["2-chelsea"]
    assert found.images.keys() == {f"{i}-chelsea.png" for i in range(3)}
    assert found.origin["manifest_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_hashes_are_recorded_on_first_use_and_compared_afterwards(photos: Path, manifest: Path, tmp_path: Path) -> None:
    record = tmp_path / "new" / "set-x2.sha256"
    first = sample_manifest(manifest, photos, 2, record=record)
    lines = record.read_text().splitlines()
    assert lines == [f"{first.images[name]}  {name}" for name in sorted(first.images)]
    assert same(first, sample_manifest(manifest, photos, 2, record=record))
    Image.fromarray(golden_frame()[:80, :100]).save(photos / "1-chelsea.png")
    with pytest.raises(InputError, match=r"1-chelsea.png is not the image that was recorded"):
        sample_manifest(manifest, photos, 2, record=record)
    assert record.read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = 16", "size = 4", "size"),
        ("size = 16", "size = 400", "smaller than 800 pixels"),
        ("size = 16", "size =", "not valid TOML"),
        ('held_out = ["2-chelsea"]', "held_out = []", "held_out"),
        ('held_out = ["2-chelsea"]', "held_out = [2]", "held_out"),
        ('["2-chelsea"]', '["1-chelsea"]', "1-chelsea is listed in both crops and held_out"),
        ("0.25", "1.25", "from 0 to 1"),
        ('"0-chelsea", 0.0, 0.0', '"0-chelsea", 0.0', "image, top, left"),
        ('"0-chelsea"', '"9-dog"', "lacks 1 of the images .* 9-dog"),
        ("crops", "cuts", "crops must be"),
    ],
)
def test_a_wrong_manifest_is_refused(old: str, new: str, words: str, photos: Path, manifest: Path) -> None:
    manifest.write_text(MANIFEST.replace(old, new))
    with pytest.raises(InputError, match=words):
        sample_manifest(manifest, photos, 2)


def test_a_broken_image_that_a_manifest_names_is_refused(photos: Path, manifest: Path) -> None:
    (photos / "1-chelsea.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"set.toml names it"):
        sample_manifest(manifest, photos, 2)


def test_the_one_that_ships_is_of_div2k() -> None:
    from wdsr_calibration.samples import _parse

    places, held_out, size = _parse(find_manifest("div2k"))
    names = {name for name, _, _ in places}
    assert len(places) >= 100
    assert len(held_out) >= 20
    assert size == 48
    assert all(len(name) == 4 and 1 <= int(name) <= 800 for name in names.union(held_out))
    with pytest.raises(InputError, match="div2k"):
        find_manifest("div3k")


def test_drawn_pictures_stand_next_to_photographs_and_none_is_held_out_that_was_learned(photos: Path) -> None:
    found = sample_folders([photos], 2, FEW)
    assert list(found.crops) == list(found.held_out) == [PHOTOGRAPHS, *KINDS]
    for kind in KINDS:
        assert len(found.crops[kind]) == 2
        assert len(found.held_out[kind]) == DRAWN_HELD_OUT
        for pair in found.crops[kind]:
            assert pair.lr.shape == (16, 16, 3)
            assert np.array_equal(bicubic(pair.hr, 1 / 2), pair.lr)
    seen = {pair.hr.tobytes() for pairs in drawn(40, 64, 2, seed=0).values() for pair in pairs}
    assert not any(pair.hr.tobytes() in seen for kind in ("text", "line-art") for pair in found.held_out[kind])
    assert list(sample_folders([photos], 2, SampleConfig(12, 16, 0, 2)).crops) == [PHOTOGRAPHS]
