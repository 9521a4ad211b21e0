"""A bundle from elsewhere is hostile until it is checked: manifest, files, weights."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import wdsr_edge
from tests.bundles import CONFIG, FILES, REUSED, edit, one_line, refused, replace
from wdsr_edge import Bundle, BundleError, InputError, WdsrError
from wdsr_edge.bundle import GOLDEN_LR, MANIFEST, WEIGHTS
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import load_model


def test_a_good_bundle(good: Path) -> None:
    bundle = Bundle.load(good)
    assert bundle.config == CONFIG
    assert bundle.name == "wdsr-b-1x2-x2"
    assert bundle.graphs == ("fp32", "fp16")
    assert set(bundle.manifest["files"]) == set(FILES)
    lr, sr = bundle.golden()
    with wdsr_edge.load(good) as upscale:
        assert np.abs(upscale(lr).astype(int) - sr).max() <= 1
        assert upscale(lr.astype(np.float32) / 255).dtype == np.float32
    for name in FILES:
        assert bundle.has(name)
        assert bundle.read(name) == (good / name).read_bytes()
    with pytest.raises(BundleError, match="holds no"):
        bundle.read("other.onnx")


# the manifest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"\xff\xfe\x00",
        b"\x00" * 100,
        b"\x80\x04N.",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"format_version": 1, "config": ' + b"[" * 50_000 + b"]" * 50_000 + b', "files": {}}',
        b'{"format_version": 1}',
        b'{"format_version": 1, "files": {}}',
        b'{"format_version": 1, "config": {}}',
        b'{"format_version": ' + b"9" * 10_000 + b"}",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_a_manifest_that_is_none(data: bytes, bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes(data)
    refused(bundle)


def test_every_truncation_of_the_manifest(bundle: Path) -> None:
    data = (bundle / MANIFEST).read_bytes().rstrip()
    for length in range(0, len(data), 5):
        (bundle / MANIFEST).write_bytes(data[:length])
        with pytest.raises(BundleError):
            Bundle.load(bundle)


@pytest.mark.parametrize("key", ["format_version", "arch", "mean", "std", "blocks"])
def test_nesting_of_any_depth(key: str, bundle: Path) -> None:
    """Deep enough to be read but not to be printed, perhaps."""
    text = (bundle / MANIFEST).read_text()
    values = json.loads(text)
    (values if key == "format_version" else values["config"])[key] = "HERE"
    for depth in (*range(1, 1000, 20), 2000, 20_000):
        (bundle / MANIFEST).write_text(json.dumps(values).replace('"HERE"', "[" * depth + "]" * depth))
        with pytest.raises(BundleError):
            Bundle.load(bundle)


def test_no_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    refused(bundle, MANIFEST)


def test_no_directory(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such")


def test_a_file_is_no_bundle(bundle: Path) -> None:
    refused(bundle / "fp32.onnx")


def test_a_huge_manifest_is_not_read(bundle: Path) -> None:
    os.truncate(bundle / MANIFEST, 100 << 20)
    refused(bundle, "1 MiB")


@pytest.mark.parametrize("version", [2, 0, -1, 1e9, "1", None, [], {}, 10**30, "1\nname"])
def test_another_format_version(version: object, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.__setitem__("format_version", version))
    refused(bundle, "format")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "golden/../../x",
        "golden/../fp32.onnx",
        "a\\b",
        "..\\x",
        "C:\\x",
        "a\0b",
        "fp32.onnx\n",
        "fp32.onnx\0",
        "é.onnx",
        "\ud800",
        "\uff46p32.onnx",
        "",
        ".",
        "..",
        ".hidden",
        "golden",
        "golden/",
        "golden//lr.png",
        "golden/golden/lr.png",
        "other/lr.png",
        "./fp32.onnx",
        "~",
        "con:",
        "a" * 5000,
        "FP32.ONNX",
        "a b",
    ],
    ids=lambda name: repr(name[:20]),
)
def test_file_names_that_are_not_plain(name: str, bundle: Path) -> None:
    (bundle.parent / "x").write_bytes(b"x")
    edit(bundle, lambda manifest: manifest["files"].__setitem__(name, hashlib.sha256(b"x").hexdigest()))
    refused(bundle)


@pytest.mark.parametrize("digest", [None, 1, "", "0" * 63, "g" * 64, "A" * 64, ["0" * 64], "0" * 64 + "\n"])
def test_a_digest_that_is_none(digest: object, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].__setitem__("fp32.onnx", digest))
    refused(bundle, "sha256")


def test_an_upper_case_hash_is_not_taken_for_another_file(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].__setitem__("fp32.onnx", "0" * 64))
    refused(bundle, "sha256")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("arch", "wdsr-c"),
        ("arch", ["wdsr-b"]),
        ("blocks", 2),
        ("blocks", 0),
        ("blocks", 10**9),
        ("blocks", True),
        ("channels", "2"),
        ("scale", 3),
        ("scale", 2.0),
        ("mean", [0, 0, 0]),
        ("mean", [float("nan")] * 3),
        ("mean", [10**400, 0, 0]),
        ("mean", None),
        ("std", 10**400),
        ("std", 0),
        ("std", float("inf")),
        ("res_scale", 10**400),
        ("low_rank", 10**400),
        ("expansion", 10**400),
        ("norm", None),
        ("unknown", 1),
        ("scale", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_config_that_is_wrong(key: str, value: object, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["config"].__setitem__(key, value))
    refused(bundle)


@pytest.mark.parametrize("config", [None, [], "wdsr-b-1x2-x2", 3, {}, {"arch": "edsr"}])
def test_a_config_that_is_none(config: object, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.__setitem__("config", config))
    refused(bundle)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**350)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["fp32.onnx", "int8.onnx", "../x", "golden/lr.png", "0" * 64, "edsr", "batch", "group"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@REUSED
@given(data=st.data())
def test_a_mutated_manifest(data: st.DataObject, good: Path) -> None:
    """Whatever stands where: BundleError or InputError, or a bundle that runs."""
    manifest = json.loads((good / MANIFEST).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = manifest
        while isinstance(place, dict) and place and data.draw(st.integers(0, 3)):
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or not data.draw(st.integers(0, 3)):
                break
            place = place[key]
        if not isinstance(place, dict):
            continue
        key = data.draw(st.sampled_from(sorted(place)) | st.text(max_size=5) if place else st.text(max_size=5))
        if data.draw(st.booleans()):
            place[key] = data.draw(JSON)
        else:
            place.pop(key, None)
    directory = good.parent / "mutated"
    if not directory.exists():
        shutil.copytree(good, directory)
    (directory / MANIFEST).write_text(json.dumps(manifest))
    for entrance in (Bundle.load, wdsr_edge.load, load_model):
        try:
            entrance(directory)
        except (BundleError, InputError) as error:
            one_line(error)


# the files


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte(name: str, bundle: Path) -> None:
    data = bytearray((bundle / name).read_bytes())
    for position in (0, len(data) // 2, len(data) - 1):
        data[position] ^= 1
        (bundle / name).write_bytes(data)
        refused(bundle, f"{name} does not match")
        data[position] ^= 1


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    refused(bundle, name)


@pytest.mark.parametrize("name", FILES)
def test_an_empty_or_longer_file(name: str, bundle: Path) -> None:
    data = (bundle / name).read_bytes()
    for spoiled in (b"", data[:-1], data + b"\0"):
        (bundle / name).write_bytes(spoiled)
        refused(bundle, f"{name} does not match")


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_a_symlink_is_not_followed(name: str, bundle: Path) -> None:
    shutil.move(bundle / name, bundle.parent / "elsewhere")
    (bundle / name).symlink_to(bundle.parent / "elsewhere")
    refused(bundle, name)


def test_a_symlinked_folder_is_not_followed(bundle: Path) -> None:
    shutil.move(bundle / "golden", bundle.parent / "elsewhere")
    (bundle / "golden").symlink_to(bundle.parent / "elsewhere")
    refused(bundle, "golden")


def test_a_bundle_made_of_links_says_so_and_what_to_do(bundle: Path) -> None:
    """As in the cache of the Hugging Face Hub."""
    blobs = bundle.parent / "blobs"
    blobs.mkdir()
    for file in [file for file in bundle.rglob("*") if file.is_file()]:
        shutil.move(file, blobs / file.name)
        file.symlink_to(os.path.relpath(blobs / file.name, file.parent))
    refused(
        bundle, r"manifest.json is a link, which is refused: copy the bundle with its files \(cp -rL; .*--local-dir"
    )


@pytest.mark.parametrize(
    "name", ["con.onnx", "nul", "golden/aux.png", "com1.onnx", "fp32.onnx.", "a\\b.onnx", "c:b.onnx"]
)
def test_a_name_that_windows_takes_for_something_else(name: str, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].__setitem__(name, "0" * 64))
    refused(bundle, "plain names only")


@pytest.mark.parametrize("name", [MANIFEST, "fp32.onnx", GOLDEN_LR])
def test_a_fifo_does_not_hang(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    refused(bundle, name)


@pytest.mark.parametrize("name", [MANIFEST, "fp32.onnx", GOLDEN_LR])
def test_a_directory_in_place_of_a_file(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    (bundle / name).mkdir()
    refused(bundle, name)


def test_a_device_is_not_read(bundle: Path) -> None:
    (bundle / "fp32.onnx").unlink()
    (bundle / "fp32.onnx").symlink_to("/dev/zero")
    refused(bundle, "fp32.onnx")


def test_a_file_of_many_gigabytes_is_not_read(bundle: Path) -> None:
    os.truncate(bundle / "fp32.onnx", 8 << 30)
    refused(bundle, "256 MiB")


def test_no_graph(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.__setitem__("files", {}))
    assert Bundle.load(bundle).graphs == ()
    with pytest.raises(InputError, match="holds no fp32"):
        wdsr_edge.load(bundle)


def test_no_float_graph_is_a_clear_error_when_it_is_needed(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].pop("fp32-float.onnx"))
    with wdsr_edge.load(bundle) as sr:
        assert sr(golden_frame()).shape == (192, 256, 3)
        with pytest.raises(BundleError, match=r"fp32-float\.onnx"):
            sr(golden_frame().astype(np.uint16))


def test_a_file_that_changed_after_loading_is_refused(bundle: Path) -> None:
    loaded = Bundle.load(bundle)
    with wdsr_edge.load(bundle) as sr:
        for name in FILES:
            (bundle / name).write_bytes((bundle / name).read_bytes() + b"\0")
            with pytest.raises(BundleError, match="sha256"):
                loaded.read(name)
        with pytest.raises(BundleError, match="sha256"):
            loaded.onnx("fp32")
        with pytest.raises(BundleError, match="sha256"):
            loaded.golden()
        with pytest.raises(BundleError, match="sha256"):
            sr(golden_frame().astype(np.uint16))
        assert sr(golden_frame()).shape == (192, 256, 3)


# the weights


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_place_of_weights_is_never_loaded(bundle: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": Evil(tmp_path / "owned")}, buffer)
    for data in (pickle.dumps(Evil(tmp_path / "owned")), buffer.getvalue()):
        replace(bundle, WEIGHTS, data)
        with pytest.raises(WdsrError):
            load_model(bundle)
        wdsr_edge.load(bundle).close()
    assert not (tmp_path / "owned").exists()


def test_a_good_bundle_warns_of_nothing(good: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Bundle.load(good).golden()
