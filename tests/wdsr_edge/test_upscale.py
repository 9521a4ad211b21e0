"""Where images go, and what is kept of them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from wdsr_edge import InputError, SuperResolver, load
from wdsr_edge.images.files import Picture, read_picture, write_picture
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.upscale import Job, plan, upscale_file, upscale_files


@pytest.fixture(scope="module")
def sr() -> Iterator[SuperResolver]:
    with load("wdsr-b-3x32-x2") as opened:
        yield opened


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_plan(tmp_path: Path) -> None:
    a, b, text = tmp_path / "in" / "a.png", tmp_path / "in" / "b.JPG", tmp_path / "in" / "c.txt"
    touch(a, b, text)
    out = tmp_path / "out"
    assert plan([a], None, 2).jobs == [Job(a, a.with_name("a_x2.png"))]
    assert plan([a], None, 3, suffix=".webp").jobs == [Job(a, a.with_name("a_x3.webp"))]
    assert plan([a], tmp_path / "big.tif", 2).jobs == [Job(a, tmp_path / "big.tif")]
    assert plan([a.parent], out, 2).jobs == [Job(a, out / "a.png"), Job(b, out / "b.JPG")]
    assert plan([a, b], out, 2, suffix=".png").jobs == [Job(a, out / "a.png"), Job(b, out / "b.png")]


def test_plan_refuses_what_would_lose_a_file(tmp_path: Path) -> None:
    a, twin, other = tmp_path / "a.png", tmp_path / "a.bmp", tmp_path / "x" / "a.png"
    touch(a, twin, other)
    with pytest.raises(InputError, match="would be lost"):
        plan([a], a, 2)
    (tmp_path / "link.png").symlink_to(a)
    with pytest.raises(InputError, match="would be lost"):
        plan([a], tmp_path / "link.png", 2)
    with pytest.raises(InputError, match="both become"):
        plan([a, other], tmp_path / "out", 2)
    with pytest.raises(InputError, match="both become"):
        plan([a, twin], tmp_path / "out", 2, suffix=".png")
    with pytest.raises(InputError, match="more images"):
        plan([a, twin], tmp_path / "big.png", 2)
    with pytest.raises(InputError, match="no such file"):
        plan([tmp_path / "none.png"], None, 2)


HOLDS = {
    ".png": ("L", "LA", "P", "RGB", "RGBA", "I;16"),
    ".jpg": ("L", "RGB", "CMYK"),
    ".webp": ("L", "RGB", "RGBA"),
    ".bmp": ("L", "P", "RGB", "RGBA"),
    ".tif": ("L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in HOLDS.items() for mode in modes])
def test_every_mode_that_a_format_holds(sr: SuperResolver, tmp_path: Path, mode: str, suffix: str) -> None:
    rgb = Image.fromarray(golden_frame())
    deep = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    source, target = tmp_path / f"in{suffix}", tmp_path / "out.png"
    (deep if mode == "I;16" else rgb.convert(mode)).save(source)
    upscale_file(sr, Job(source, target))
    before, after = read_picture(source), read_picture(target)
    height, width = before.pixels.shape[:2]
    assert after.pixels.shape == (2 * height, 2 * width, *before.pixels.shape[2:])
    assert after.pixels.dtype == before.pixels.dtype
    assert after.grey == before.grey
    top = 65535 if after.pixels.dtype == np.uint16 else 255
    shrunk = after.pixels.reshape(height, 2, width, 2, -1).mean((1, 3)) / top
    assert np.abs(shrunk - before.pixels.reshape(height, width, -1) / top).mean() < 0.02


def test_sixteen_bits_are_finer_than_eight(sr: SuperResolver, tmp_path: Path) -> None:
    """A ramp of 512 levels over two 8-bit levels stays a ramp."""
    ramp = np.broadcast_to(np.arange(512, dtype=np.uint16) + 30000, (16, 512))
    source, target = tmp_path / "ramp.png", tmp_path / "big.png"
    write_picture(source, Picture(np.dstack([ramp] * 3)))
    upscale_file(sr, Job(source, target))
    big = read_picture(target).pixels
    assert big.dtype == np.uint16
    assert len(np.unique(big[16, 100:900])) > 300


def test_profile_and_exif_survive(sr: SuperResolver, tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A camera", 6
    source, target = tmp_path / "in.jpg", tmp_path / "out.jpg"
    Image.fromarray(golden_frame()).save(source, quality=95, icc_profile=icc, exif=exif, dpi=(300, 300))
    upscale_file(sr, Job(source, target))
    with Image.open(target) as big:
        assert big.size == (192, 256)  # lying on its side before
        assert big.info["icc_profile"] == icc
        assert big.getexif()[0x010F] == "A camera"
        assert big.getexif().get(0x0112, 1) == 1
        assert big.info["dpi"] == (300, 300)


def test_opaque_stays_opaque(sr: SuperResolver, tmp_path: Path) -> None:
    rgba = np.dstack([golden_frame(), np.full((96, 128), 255, np.uint8)])
    rgba[:40, :40, 3] = 0
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(rgba).save(source)
    upscale_file(sr, Job(source, target))
    alpha = read_picture(target).pixels[..., 3]
    assert (alpha[90:, 90:] == 255).all()
    assert (alpha[:70, :70] == 0).all()


def transparent(kind: str, hidden: int) -> Image.Image:
    """A dark disc on nothing; ``hidden`` is the level that lies under the nothing."""
    y, x = np.mgrid[:40, :50]
    disc = (y - 20) ** 2 + (x - 25) ** 2 < 150
    level = np.where(disc, 20 + x, hidden).astype(np.uint8)
    alpha = np.where(disc, 255, 0).astype(np.uint8)
    if kind == "LA":
        return Image.fromarray(np.dstack([level, alpha]))
    if kind == "RGBA":
        return Image.fromarray(np.dstack([level, level // 2, 255 - level, alpha]))
    if kind == "L":
        image = Image.fromarray(level)
        image.info["transparency"] = hidden
    elif kind == "P":
        image = Image.fromarray(np.where(disc, x // 8, 9).astype(np.uint8), "P")
        image.putpalette([8 * i for i in range(27)] + [hidden, 255 - hidden, hidden // 2])
        image.info["transparency"] = 9
    else:
        image = Image.fromarray(np.dstack([level, level // 2, 255 - level]))
        image.info["transparency"] = (hidden, hidden // 2, 255 - hidden)
    return image


@pytest.mark.parametrize("kind", ["LA", "RGBA", "L", "P", "RGB"])
def test_no_file_shows_what_it_hides(sr: SuperResolver, tmp_path: Path, kind: str) -> None:
    found = []
    for hidden in (255, 150):
        source, target = tmp_path / "in.png", tmp_path / "out.png"
        transparent(kind, hidden).save(source)
        assert 0 in read_picture(source).pixels[..., 3]
        upscale_file(sr, Job(source, target))
        found.append(read_picture(target))
    np.testing.assert_array_equal(found[0].pixels, found[1].pixels)
    assert found[0].grey == (kind in ("L", "LA"))
    seen = found[0].pixels[found[0].pixels[..., 3] > 0]
    assert seen[:, 0].max() < 110


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_no_deep_file_shows_what_it_hides(sr: SuperResolver, tmp_path: Path, suffix: str) -> None:
    found = []
    for hidden in (255, 150):
        source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
        write_picture(source, Picture(np.asarray(transparent("RGBA", hidden)).astype(np.uint16) * 257))
        upscale_file(sr, Job(source, target))
        found.append(read_picture(target).pixels)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jpg", ".webp"])
def test_a_grey_file_in_three_channels_stays_grey(sr: SuperResolver, tmp_path: Path, suffix: str) -> None:
    page = np.repeat(golden_frame()[..., 1:2], 3, 2)
    page[20:50, 20:50] = np.where(np.add.outer(np.arange(30), np.arange(30)) % 3 > 0, 255, 0)[..., None]
    source, target = tmp_path / f"in{suffix}", tmp_path / "out.png"
    Image.fromarray(page).save(source, quality=80)
    upscale_file(sr, Job(source, target))
    big = read_picture(target).pixels
    assert big.ndim == 3
    assert np.ptp(big, axis=2).max() == 0


def test_a_failure_stops_nothing_and_leaves_nothing(sr: SuperResolver, tmp_path: Path) -> None:
    good, bad, clear = tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "clear.png"
    Image.fromarray(golden_frame()).save(good)
    bad.write_bytes(good.read_bytes()[:5000])
    Image.fromarray(np.dstack([golden_frame(), golden_frame()[..., 0]])).save(clear)
    out = tmp_path / "out"
    done = list(upscale_files(sr, [Job(path, out / f"{path.stem}.jpg") for path in (bad, clear, good)]))
    assert [bool(entry.error) for entry in done] == [True, True, False]
    assert "bad.png" in done[0].error
    assert "alpha" in done[1].error
    assert [path.name for path in out.iterdir()] == ["good.jpg"]


def test_permissions_of_the_source_are_kept(sr: SuperResolver, tmp_path: Path) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(golden_frame()).save(source)
    source.chmod(0o600)
    upscale_file(sr, Job(source, target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_progress_moves_with_each_tile(tmp_path: Path) -> None:
    jobs = [Job(tmp_path / f"{name}.png", tmp_path / f"{name}_x2.png") for name in "ab"]
    for job in jobs:
        Image.fromarray(golden_frame()).save(job.source)
    told: list[tuple[Job, float]] = []
    with load("wdsr-b-1x32-x2", backend="onnxruntime", tile=16) as sr:
        assert all(not entry.error for entry in upscale_files(sr, jobs, on_progress=lambda *one: told.append(one)))
    assert [job for job, _ in told] == sorted(job for job, _ in told)
    parts = [part for job, part in told if job == jobs[0]]
    assert parts[0] == 0
    assert parts[-1] == 1
    assert parts == sorted(set(parts))
    assert len(parts) > 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_tells_of_what_was_just_written(
    sr: SuperResolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    jobs = [Job(tmp_path / f"{name}.png", tmp_path / "out" / f"{name}.png") for name in "abc"]
    for job in jobs:
        Image.fromarray(golden_frame()).save(job.source)

    def interrupted(path: Path, picture: Picture, **options: Any) -> None:
        write_picture(path, picture, **options)
        if path.name == stop:
            raise error

    monkeypatch.setattr("wdsr_edge.upscale.write_picture", interrupted)
    stop, done = "b.png", []
    with pytest.raises(error):
        done.extend(upscale_files(sr, jobs))
    assert [entry.job for entry in done] == jobs[:2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_the_limit_of_pixels_names_an_option_that_there_is(sr: SuperResolver, tmp_path: Path) -> None:
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(golden_frame()).save(source)
    (one,) = upscale_files(sr, [Job(source, target)], max_pixels=96 * 128 - 1)
    assert "--max-pixels" in one.error
    (one,) = upscale_files(sr, [Job(source, target)], max_pixels=96 * 128)
    assert not one.error
