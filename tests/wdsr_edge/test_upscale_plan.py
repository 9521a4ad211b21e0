"""Which image goes where, and which is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wdsr_edge.images.test_formats import saved
from wdsr_edge import InputError
from wdsr_edge.images import samples
from wdsr_edge.upscale_plan import Done, Job, Plan, plan


def put(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved("GIF") if path.suffix in ("", ".gif") else b"")
    return paths


def targets(planned: Plan, folder: Path) -> dict[str, str]:
    return {
        job.source.relative_to(folder).as_posix(): job.target.relative_to(folder).as_posix() for job in planned.jobs
    }


def test_subfolders_keep_their_places(tmp_path: Path) -> None:
    put(tmp_path, "in/a.png", "in/s/a.png", "in/s/t/b.JPG", "in/out/old.png")
    flat = plan([tmp_path / "in"], tmp_path / "in" / "out", 2)
    assert targets(flat, tmp_path) == {"in/a.png": "in/out/a.png"}
    assert flat.notes == [f"{tmp_path / 'in'}: passed over 1 subfolder: --recursive enters them"]
    deep = plan([tmp_path / "in"], tmp_path / "in" / "out", 2, recursive=True)
    assert targets(deep, tmp_path) == {
        "in/a.png": "in/out/a.png",
        "in/s/a.png": "in/out/s/a.png",
        "in/s/t/b.JPG": "in/out/s/t/b.JPG",
    }
    assert deep.notes == []


def test_only_subfolders_have_images(tmp_path: Path) -> None:
    put(tmp_path, "in/s/a.png")
    with pytest.raises(InputError, match="--recursive"):
        plan([tmp_path / "in"], tmp_path / "out", 2)


def test_what_cannot_be_written_as_it_is_becomes_png(tmp_path: Path) -> None:
    inputs = put(tmp_path, "a.gif", "b.heic", "c", "d.JFIF", "e.avif")
    assert targets(plan(inputs, tmp_path / "o", 2), tmp_path) == {
        "a.gif": "o/a.png",
        "b.heic": "o/b.png",
        "c": "o/c.png",
        "d.JFIF": "o/d.JFIF",
        "e.avif": "o/e.avif",
    }
    assert targets(plan([tmp_path / "a.gif"], None, 2), tmp_path) == {"a.gif": "a_x2.png"}


def test_a_format_of_our_choice_takes_no_other_images_name(tmp_path: Path) -> None:
    put(tmp_path, "a.gif", "a.png", "b.gif")
    found = plan([tmp_path], tmp_path / "o", 2)
    assert targets(found, tmp_path) == {"a.gif": "o/a.gif.png", "a.png": "o/a.png", "b.gif": "o/b.png"}
    beside = plan([tmp_path / "a.gif", tmp_path / "a.png"], None, 2)
    assert targets(beside, tmp_path) == {"a.gif": "a.gif_x2.png", "a.png": "a_x2.png"}
    with pytest.raises(InputError, match="both become"):
        plan([tmp_path], tmp_path / "o", 2, suffix=".png")


def test_an_image_that_is_named_twice_is_done_once(tmp_path: Path) -> None:
    (a,) = put(tmp_path, "in/a.png")
    assert len(plan([a, a, a.parent / ".." / "in" / "a.png"], None, 2).jobs) == 1
    assert len(plan([a, a.parent], tmp_path / "out", 2).jobs) == 1


def test_existing_results_are_skipped(tmp_path: Path) -> None:
    a, b, _ = put(tmp_path, "in/a.png", "in/b.png", "out/a.png")
    (tmp_path / "out" / "b.png").mkdir()
    found = plan([a.parent], tmp_path / "out", 2, skip_existing=True)
    assert found.settled == [Done(Job(a, tmp_path / "out" / "a.png"), "", skipped=True)]
    assert [job.source for job in found.jobs] == [b]
    assert len(plan([a.parent], tmp_path / "out", 2).jobs) == 2


def test_results_among_the_inputs_are_not_enlarged_again(tmp_path: Path) -> None:
    """``upscale *.png`` a second time."""
    inputs = put(tmp_path, "a.png", "a_x2.png", "b.png", "b_x2.png", "c.png")
    with pytest.raises(InputError, match=r"a_x2.png is an input and would be lost"):
        plan(inputs, None, 2)
    found = plan(inputs, None, 2, skip_existing=True)
    assert targets(found, tmp_path) == {"c.png": "c_x2.png"}
    assert [entry.job.source.name for entry in found.settled] == ["a.png", "b.png"]
    assert found.notes == ["passed over 2 images: results of other inputs"]
    with pytest.raises(InputError, match="would be lost"):
        plan([tmp_path], tmp_path, 2, skip_existing=True)


def test_results_do_not_go_among_the_shipped_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = samples.PHOTOS / "chelsea.png"
    monkeypatch.chdir(tmp_path)
    assert plan([photo], None, 3).jobs == [Job(photo, Path("chelsea_x3.png"))]
    assert plan([photo], samples.PHOTOS / "big.png", 2).jobs == [Job(photo, samples.PHOTOS / "big.png")]
    (tmp_path / "photos").symlink_to(samples.PHOTOS)
    through = tmp_path / "photos" / "chelsea.png"
    assert plan([through], None, 2).jobs == [Job(through, Path("chelsea_x2.png"))]
    monkeypatch.chdir(samples.PHOTOS)
    with pytest.raises(InputError, match="give --output"):
        plan([Path("chelsea.png")], None, 2)


def test_a_folder_that_cannot_be_opened_fails_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "in/a.png", "in/closed/b.png")
    opened = Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return opened(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = plan([tmp_path / "in"], tmp_path / "out", 2, recursive=True)
    assert targets(found, tmp_path) == {"in/a.png": "out/a.png"}
    closed = tmp_path / "in" / "closed"
    error = f"{closed}: cannot be opened (Permission denied)"
    assert found.settled == [Done(Job(closed, tmp_path / "out" / "closed"), error)]
