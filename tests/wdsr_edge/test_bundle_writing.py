"""Writing a bundle: whole or not at all, and never over something else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.bundles import CONFIG, FILES, contents, files_of
from wdsr_edge import Bundle, InputError, WdsrError, _exchange
from wdsr_edge.bundle import MANIFEST, write_bundle


def test_write_then_load(good: Path, tmp_path: Path) -> None:
    made = write_bundle(tmp_path / "new" / "one", CONFIG, files_of(good), {"note": "é"})
    assert made.path == tmp_path / "new" / "one"
    assert made.manifest["note"] == "é"
    assert files_of(made.path) == files_of(good)
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["one"]


@pytest.mark.parametrize("name", ["fp32.onnx", "../x", "A.onnx", MANIFEST])
def test_a_failure_leaves_the_old_bundle(name: str, bundle: Path) -> None:
    """Bad contents, bad names: the check before the rename finds them."""
    before, files = contents(bundle), files_of(bundle)
    with pytest.raises(WdsrError):
        write_bundle(bundle, CONFIG, {**files, name: b"bad"}, {})
    assert contents(bundle) == before
    assert [entry.name for entry in bundle.parent.iterdir()] == ["bundle"]
    Bundle.load(bundle)


def test_details_that_are_no_json_leave_the_old_bundle(bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises((TypeError, WdsrError)):
        write_bundle(bundle, CONFIG, files_of(bundle), {"x": object()})
    assert contents(bundle) == before


@pytest.mark.parametrize("key", ["files", "config", "format_version", "name"])
def test_details_do_not_overwrite_what_the_bundle_says_of_itself(key: str, bundle: Path, tmp_path: Path) -> None:
    try:
        made = write_bundle(tmp_path / "new", CONFIG, files_of(bundle), {key: {}})
    except WdsrError:
        return
    assert set(made.manifest["files"]) == set(FILES)
    assert made.manifest["name"] == CONFIG.name


def test_a_full_disk_leaves_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, files = contents(bundle), files_of(bundle)
    real, calls = Path.write_bytes, []

    def full(self: Path, data: bytes) -> int:
        calls.append(self)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises((OSError, WdsrError)):
        write_bundle(bundle, CONFIG, files, {})
    assert contents(bundle) == before
    assert [entry.name for entry in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("error", [OSError(39, "Directory not empty"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_a_failure_between_the_two_renames_leaves_the_old_bundle(
    error: BaseException, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system cannot exchange two folders at once."""
    before, files = contents(bundle), files_of(bundle)
    real = os.rename

    def fail(source: Path, target: Path) -> None:
        if Path(target) == bundle and (Path(source) / MANIFEST).is_file() and not bundle.exists() and not failed:
            failed.append(source)
            raise error
        real(source, target)

    failed: list[Path] = []
    monkeypatch.setattr(_exchange, "swap", lambda one, other: False)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises((OSError, WdsrError, KeyboardInterrupt)):
        write_bundle(bundle, CONFIG, files, {})
    assert failed
    assert bundle.is_dir()
    assert contents(bundle) == before


def test_a_bundle_that_a_killed_process_had_moved_away_is_found(bundle: Path) -> None:
    scratch = bundle.parent / f".{bundle.name}.abc"
    scratch.mkdir()
    bundle.rename(scratch / f"{bundle.name}.old")
    os.utime(scratch, (time.time() - 10,) * 2)
    assert Bundle.load(bundle).config == CONFIG


def test_an_empty_directory_is_filled(good: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", CONFIG, files_of(good), {})


def test_an_old_bundle_is_replaced_whole(bundle: Path) -> None:
    files = files_of(bundle)
    write_bundle(bundle, CONFIG, {name: data for name, data in files.items() if "golden" not in name}, {})
    assert not (bundle / "golden").exists()


def test_a_damaged_bundle_is_replaced(bundle: Path) -> None:
    files = files_of(bundle)
    (bundle / "fp32.onnx").write_bytes(b"")
    write_bundle(bundle, CONFIG, files, {})


@pytest.mark.parametrize("kind", ["file", "folder", "link to a folder"])
def test_what_is_no_bundle_is_not_replaced(kind: str, good: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("precious")
    else:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "thesis.txt").write_text("precious")
        if kind == "folder":
            (tmp_path / "real").rename(target)
        else:
            target.symlink_to(tmp_path / "real")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="is not a bundle"):
        write_bundle(target, CONFIG, files_of(good), {})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3, "name": "a browser extension"}', "", "{}"])
def test_a_folder_with_somebody_elses_manifest_is_not_replaced(manifest: str, good: Path, tmp_path: Path) -> None:
    """Web apps and browser extensions have a manifest.json as well."""
    target = tmp_path / "web"
    target.mkdir()
    (target / MANIFEST).write_text(manifest)
    (target / "index.html").write_text("precious")
    with pytest.raises(InputError):
        write_bundle(target, CONFIG, files_of(good), {})
    assert (target / "index.html").read_text() == "precious"


def test_the_working_directory(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-o .`` in an empty folder: written, or refused in one line."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    try:
        write_bundle(".", CONFIG, files_of(good), {})
    except InputError:
        return
    Bundle.load(tmp_path / "here")
