"""From image files to patches: decoded once, kept on disk, and drawn so that any step can be drawn again."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wdsr_edge import InputError, training
from wdsr_edge.data import pairs as pairs_module
from wdsr_edge.data.pairs import Pair, bicubic, load_pairs
from wdsr_edge.images.degradation import read_recipe
from wdsr_edge.images.files import Rgb, read_rgb
from wdsr_edge.images.samples import PHOTOS, frame_of_size, golden_frame
from wdsr_edge.training import ImageCache, TrainConfig, World, open_pairs
from wdsr_edge.training.cache import CacheError
from wdsr_edge.training.data import DrawnPairs, Variety, batches, random_patches

CPU = torch.device("cpu")
FOLDER = Path(training.__file__).parent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two small pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(golden_frame()).save(folder / "golden.png")
    Image.fromarray(golden_frame()[::-1, :61]).save(folder / "odd.png")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the image files decoded so far."""
    names: list[str] = []

    def reading(path: Path) -> Rgb:
        names.append(path.name)
        return read_rgb(path)

    monkeypatch.setattr(pairs_module, "read_rgb", reading)
    return names


def same(found: Iterator[Pair] | list[Pair], folder: Path, scale: int = 2) -> bool:
    """Whether pairs are what the image files in ``folder`` hold."""
    return all(
        ours.name == theirs.name and np.array_equal(ours.lr, theirs.lr) and np.array_equal(ours.hr, theirs.hr)
        for ours, theirs in zip(found, load_pairs([folder], scale), strict=True)
    )


@contextmanager
def limit(which: int, value: int) -> Iterator[None]:
    """This process may have no more than ``value`` of a resource."""
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_what_the_cache_gives_is_what_the_files_hold(photos: Path, cache: ImageCache, scale: int) -> None:
    for _ in range(2):
        assert same(list(open_pairs([photos], scale, cache)), photos, scale)


def test_no_image_is_decoded_twice(photos: Path, cache: ImageCache, decoded: list[str]) -> None:
    pairs = open_pairs([photos], 2, cache)
    for step in range(20):
        random_patches(pairs, 8, 4, (0, step))
    open_pairs([photos], 3, cache)
    open_pairs([photos], 2, ImageCache(cache.folder))
    assert sorted(decoded) == ["golden.png", "odd.png"]


def test_no_image_is_shrunk_twice(photos: Path, cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    open_pairs([photos], 2, cache)
    monkeypatch.setattr(pairs_module, "bicubic", None)
    assert len(open_pairs([photos], 2, cache)) == 2


def test_an_image_that_changed_is_read_again(photos: Path, cache: ImageCache) -> None:
    """A BMP has the same size whatever it shows, so only the time tells."""
    path = photos / "golden.bmp"
    Image.fromarray(golden_frame()).save(path)
    open_pairs([photos], 2, cache)
    state = path.stat()
    Image.fromarray(golden_frame()[:, ::-1]).save(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert same(list(open_pairs([photos], 2, cache)), photos)


def test_images_of_one_name_in_two_folders_are_two_images(photos: Path, cache: ImageCache, tmp_path: Path) -> None:
    """Even if they have the same size and time."""
    Image.fromarray(golden_frame()).save(photos / "golden.bmp")
    other = Path(shutil.copytree(photos, tmp_path / "other"))
    Image.fromarray(255 - golden_frame()).save(other / "golden.bmp")
    shutil.copystat(photos / "golden.bmp", other / "golden.bmp")
    pairs = open_pairs([photos, other], 2, cache)
    assert same(list(pairs[:3]), photos)
    assert same(list(pairs[3:]), other)


@pytest.mark.parametrize(
    "damage", ["empty", "truncated", "longer", "garbage", "zeros", "archive", "gone", "turned", "older"]
)
def test_a_damaged_entry_is_made_again(photos: Path, cache: ImageCache, damage: str) -> None:
    open_pairs([photos], 2, cache)
    entries = list(cache.folder.glob("*.rgb"))
    assert len(entries) == 4
    for path in entries:
        data = path.read_bytes()
        path.unlink()
        if damage == "gone":
            continue
        path.write_bytes(
            {
                "empty": b"",
                "truncated": data[:-1],
                "longer": data + b"\0",
                "garbage": b"garbage" * 99,
                "zeros": bytes(len(data)),
                "turned": data[:4] + data[8:12] + data[4:8] + data[12:],  # height for width
                "older": b"RGB8" + data[4:12] + data[28:],
                "archive": b"PK\x03\x04" + data[4:12] + bytes(len(data) - 12),
            }[damage]
        )
    assert same(list(open_pairs([photos], 2, cache)), photos)


@given(position=st.integers(0, 216), value=st.integers(0, 255), cut=st.none() | st.integers(0, 200))
def test_no_byte_of_an_entry_is_believed(
    position: int, value: int, cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is in an entry, the image stays as it is, and no error comes of it."""
    folder = tmp_path_factory.mktemp("cache")
    image = golden_frame()[:9, :7]
    Image.fromarray(image).save(folder / "image.png")
    cache = ImageCache(folder / "cache")
    cache.keep(folder / "image.png", "image", lambda: image)
    (entry,) = cache.folder.glob("*.rgb")
    data = bytearray(entry.read_bytes())
    data[position] = value
    entry.write_bytes(data[:cut])
    assert np.array_equal(cache.keep(folder / "image.png", "image", lambda: image).open(), image)


def test_only_the_damaged_image_is_decoded_again(photos: Path, cache: ImageCache, decoded: list[str]) -> None:
    """One byte of a pixel, which nothing but a checksum shows."""
    open_pairs([photos], 2, cache)
    decoded.clear()
    entries = sorted(cache.folder.glob("*.rgb"), key=lambda path: path.stat().st_size)
    data = bytearray(entries[-1].read_bytes())
    data[len(data) // 2] ^= 1
    entries[-1].write_bytes(data)
    pairs = open_pairs([photos], 2, cache)
    assert len(decoded) == 1
    decoded.clear()
    assert same(list(pairs), photos)
    open_pairs([photos], 2, cache)
    assert decoded == ["golden.png", "odd.png"]  # of the comparison


def test_entries_that_changed_places_are_seen(photos: Path, cache: ImageCache, tmp_path: Path) -> None:
    """Both are whole, of one size, and each is in the place of the other."""
    Image.fromarray(golden_frame()[::-1]).save(photos / "turned.png")
    open_pairs([photos], 2, cache)
    entries = sorted(cache.folder.glob("*.rgb"), key=lambda path: path.stat().st_size)[-2:]
    first, second = (path.read_bytes() for path in entries)
    assert len(first) == len(second)
    entries[0].write_bytes(second)
    entries[1].write_bytes(first)
    assert same(list(open_pairs([photos], 2, cache)), photos)


def test_an_entry_that_shrinks_in_use_is_an_error_and_no_crash(photos: Path, cache: ImageCache) -> None:
    """Pages of a mapping that the file does not have end a process with SIGBUS."""
    pairs = open_pairs([photos], 2, cache)
    for entry in cache.folder.glob("*.rgb"):
        os.truncate(entry, 100)
    with pytest.raises(CacheError, match="changed while it was in use: run this again"):
        pairs[0]
    assert same(list(open_pairs([photos], 2, cache)), photos)


def test_processes_make_an_image_once(tmp_path: Path) -> None:
    """Three at once, in an empty cache."""
    program = """
import sys, time, types
from pathlib import Path
import numpy as np
package = types.ModuleType("wdsr_edge.training")  # without PyTorch, which takes seconds
package.__path__ = [sys.argv[3]]
sys.modules["wdsr_edge.training"] = package
from wdsr_edge.training.cache import ImageCache
def make():
    with open(sys.argv[2], "a") as file:
        file.write("x")
    time.sleep(0.2)
    return np.full((5, 4, 3), 7, np.uint8)
print(ImageCache(sys.argv[1]).keep(Path(__file__), "image", make).open().sum())
"""
    (tmp_path / "keep.py").write_text(program)
    command = [sys.executable, str(tmp_path / "keep.py"), *map(str, (tmp_path / "cache", tmp_path / "made", FOLDER))]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [child.communicate()[0] for child in children] == [f"{5 * 4 * 3 * 7}\n"] * 3
    assert (tmp_path / "made").read_text() == "x"


def test_processes_may_fill_one_cache_together(photos: Path, cache: ImageCache) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: list(open_pairs([photos], 2, ImageCache(cache.folder))), range(8)))
    assert all(same(pairs, photos) for pairs in found)
    assert len(list(cache.folder.glob("*.rgb"))) == 4


def test_a_cache_that_a_killed_run_left_is_gone_on_with(photos: Path, cache: ImageCache, decoded: list[str]) -> None:
    """Killed after the first image, in the middle of writing the second."""
    open_pairs([photos / "golden.png"], 2, cache)
    (cache.folder / ".half.abc").mkdir()
    (cache.folder / ".half.abc" / "half").write_bytes(b"half")
    assert same(list(open_pairs([photos], 2, cache)), photos)
    assert decoded.count("golden.png") == 2  # once here, once for the comparison


def test_more_images_than_a_process_may_open_files(tmp_path: Path, cache: ImageCache) -> None:
    """DIV2K has 1600, and the usual limit is 1024."""
    for i in range(60):
        Image.fromarray(golden_frame()[i : i + 16, :16]).save(tmp_path / f"{i:02}.png")
    with limit(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd")) + 40):
        pairs = open_pairs([tmp_path], 2, cache)
        assert sum(pair.lr.shape == (8, 8, 3) for pair in pairs) == 60
        random_patches(pairs, 8, 200, (0, 0))


def test_a_full_disk_is_said_with_a_way_out(photos: Path, cache: ImageCache) -> None:
    """And is not taken for a bad image that can be skipped."""
    with limit(resource.RLIMIT_FSIZE, 10_000), pytest.raises(InputError, match=r"cannot write .*--cache"):
        open_pairs([photos], 2, cache)
    assert [entry.name for entry in cache.folder.iterdir()] == ["locks"]


def test_a_cache_that_cannot_be_is_refused(photos: Path) -> None:
    with pytest.raises(InputError, match=r"golden\.png"):
        ImageCache(photos / "golden.png")


def test_lr_files_that_came_with_the_images_are_used(tmp_path: Path, cache: ImageCache) -> None:
    hr, lr = tmp_path / "DIV2K_train_HR", tmp_path / "DIV2K_train_LR_bicubic" / "X2"
    for folder, name, image in (
        (hr, "0001.png", golden_frame()),
        (hr, "0002.png", golden_frame()),
        (lr, "0002x2.png", 255 - bicubic(golden_frame(), 1 / 2)),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    made, given_ = open_pairs([tmp_path], 2, cache)
    assert np.array_equal(made.lr, bicubic(golden_frame(), 1 / 2))
    assert np.array_equal(given_.lr, 255 - made.lr)


def test_usable_images_are_used_and_the_others_named(tmp_path: Path, cache: ImageCache) -> None:
    data = tmp_path / "HR"
    (tmp_path / "LR_bicubic" / "X2").mkdir(parents=True)
    data.mkdir()
    image = Image.fromarray(golden_frame())
    for mode, name in (("RGB", "rgb.png"), ("L", "grey.png"), ("P", "palette.png"), ("RGBA", "rgba.png")):
        image.convert(mode).save(data / name)
    image.convert("CMYK").save(data / "cmyk.jpg")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(data / "grey16.png")
    usable = {path.stem for path in data.iterdir()}
    whole = (data / "rgb.png").read_bytes()
    (data / "empty.png").touch()
    (data / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (data / "text.png").write_text("no image")
    (data / "[red]\n.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    image.crop((0, 0, 15, 15)).save(data / "tiny.png")
    image.save(data / "other_lr.png")
    image.crop((0, 0, 63, 48)).save(tmp_path / "LR_bicubic" / "X2" / "other_lrx2.png")
    image.save(data / "broken_lr.png")
    (tmp_path / "LR_bicubic" / "X2" / "broken_lrx2.png").write_text("no image")
    (data / "notes.txt").write_text("no image, and none expected")
    skipped: list[str] = []
    counts: list[tuple[int, int]] = []
    pairs = open_pairs(
        [data], 2, cache, least=8, on_skipped=skipped.append, on_image=lambda done, total: counts.append((done, total))
    )
    assert {pair.name for pair in pairs} == usable
    reasons = {
        "empty.png": "is empty",
        "truncated.png": "truncated",
        "text.png": "is not a PNG",
        "[red]\n.png": "cannot be read",
        "tiny.png": "smaller than 16 pixels",
        "other_lrx2.png": "is 63x48, and not 1/2 of",
        "broken_lrx2.png": "is not a PNG",
    }
    assert len(skipped) == len(reasons)
    for name, reason in reasons.items():
        (line,) = (line for line in skipped if f"/{name}" in line)
        assert reason in line
    assert counts == [(i + 1, 13) for i in range(13)]


def test_a_folder_without_a_usable_image_is_refused(tmp_path: Path, cache: ImageCache) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=f"no usable image in {tmp_path}"):
        open_pairs([tmp_path], 2, cache)
    with pytest.raises(InputError, match="no such file or folder"):
        open_pairs([tmp_path / "missing"], 2, cache)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_are_pairs(scale: int) -> None:
    """Each LR patch is what its HR patch shrinks to, away from the border where the shrinking sees outside."""
    pairs = load_pairs([PHOTOS], scale)
    lr, hr = random_patches(pairs, 16, 8, (1, 2))
    assert lr.shape == (8, 3, 16, 16)
    assert hr.shape == (8, 3, 16 * scale, 16 * scale)
    for small, large in zip(lr, hr, strict=True):
        image = (large.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        shrunk = bicubic(image, 1 / scale).astype(np.int16)
        apart = np.abs(shrunk - (small.permute(1, 2, 0).numpy() * 255).round())[3:-3, 3:-3]
        # Flips and rotations shrink rows and columns in another order, with a rounding in between.
        assert apart.max() <= 1


def test_patches_come_from_every_place_in_every_orientation() -> None:
    """Of an image one pixel larger than the patch: four places, eight orientations, all about as often."""
    lr = golden_frame()[:5, :5]
    pair = Pair("photo", lr, lr.repeat(2, axis=0).repeat(2, axis=1))
    possible = {
        np.ascontiguousarray(np.rot90(lr[y : y + 4, x : x + 4], turns)[:, ::flip]).tobytes(): 0
        for y in (0, 1)
        for x in (0, 1)
        for turns in range(4)
        for flip in (1, -1)
    }
    assert len(possible) == 32
    for step in range(100):
        found = random_patches([pair], 4, 16, (0, step))[0]
        for patch in (found * 255).round().to(torch.uint8).permute(0, 2, 3, 1):
            possible[patch.numpy().tobytes()] += 1
    assert all(25 <= count <= 80 for count in possible.values())  # 50 on average


def test_every_image_is_drawn_from() -> None:
    flat = [
        Pair(str(level), np.full((8, 8, 3), level, np.uint8), np.zeros((16, 16, 3), np.uint8)) for level in range(9)
    ]
    lr, _ = random_patches(flat, 8, 400, (0, 0))
    drawn = (lr[:, 0, 0, 0] * 255).round().long().bincount(minlength=9)
    assert int(drawn.min()) > 20


def test_patches_depend_on_the_seed_alone(pairs: list[Pair]) -> None:
    first, again, other = (random_patches(pairs, 8, 4, seed)[0] for seed in ((3, 7), (3, 7), (3, 8)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@given(processes=st.sampled_from((1, 2, 3, 4, 6)), each=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_shares_of_all_processes_are_the_batch(processes: int, each: int, seed: int) -> None:
    frame = golden_frame()
    pairs = [Pair("photo", frame, frame.repeat(2, axis=0).repeat(2, axis=1))]
    batch = processes * each
    shares = [range(batch)[World(rank, processes).share(batch)] for rank in range(processes)]
    assert sorted(place for share in shares for place in share) == list(range(batch))
    whole = random_patches(pairs, 6, batch, (seed, 0))
    for rank in range(processes):
        share = World(rank, processes).share(batch)
        for part, all_ in zip(random_patches(pairs, 6, batch, (seed, 0), share), whole, strict=True):
            assert torch.equal(part, all_[share])
            assert len(part) == each


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_of_a_resumed_run_are_those_it_would_have_had(pairs: list[Pair], workers: int) -> None:
    recipe = TrainConfig(steps=7, batch=2, patch=8, workers=workers, seed=5)
    straight = list(batches(pairs, recipe, 0, World(), CPU))
    resumed = list(batches(pairs, recipe, 4, World(), CPU))
    assert (len(straight), len(resumed)) == (7, 3)
    for ours, theirs in zip(resumed, straight[4:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len({lr.numpy().tobytes() for lr, _ in straight}) == 7
    lr, hr = straight[3]
    expected = random_patches(pairs, 8, 2, (5, 3))
    assert torch.equal(lr, expected[0])
    assert torch.equal(hr, expected[1])


def test_drawn_pictures_are_as_many_as_asked_for_and_the_same_again() -> None:
    drawn, again = DrawnPairs(2, 16), DrawnPairs(2, 16)
    assert len(drawn) == 6 * 64
    assert drawn[5].name == "gradients-0"
    assert drawn[-1].name == "gradients-63"
    assert [pair.name for pair in drawn[:2]] == ["text-0", "line-art-0"]
    assert np.array_equal(drawn[7].hr, again[7].hr)
    with pytest.raises(IndexError):
        drawn[6 * 64]
    photographs = [Pair("grey", np.full((20, 20, 3), 7, np.uint8), np.full((40, 40, 3), 7, np.uint8))]
    lr, _ = random_patches(photographs, 16, 300, (0, 0), variety=Variety(drawn, 0.3))
    grey = sum(bool((patch * 255).round().eq(7).all()) for patch in lr)
    assert 0.6 < grey / 300 < 0.8


@pytest.mark.parametrize("side", [16, 40, 90])
def test_degraded_patches_show_what_their_truth_shows(side: int) -> None:
    """From images that are hardly larger than a patch, too."""
    hr = frame_of_size(2 * side, 2 * side)
    pairs = [Pair("photo", bicubic(hr, 1 / 2), hr)]
    lr, truth = random_patches(pairs, 16, 60, (0, 0), variety=Variety(degradations=read_recipe("camera")))
    assert lr.shape == (60, 3, 16, 16)
    assert truth.shape == (60, 3, 32, 32)
    small = torch.nn.functional.avg_pool2d(truth, 2)
    assert float((lr - small).abs().mean()) * 255 < 12
    clean = random_patches(pairs, 16, 60, (0, 0))[0]
    assert (lr != clean).any()
