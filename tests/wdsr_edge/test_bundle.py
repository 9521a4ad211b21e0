"""A bundle from elsewhere is hostile until it is checked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

import wdsr_edge
from wdsr_edge import Bundle, BundleError, InputError, WdsrError
from wdsr_edge.bundle import GOLDEN_LR, GOLDEN_SR, MANIFEST, WEIGHTS, write_bundle
from wdsr_edge.loading import ZOO_VARIABLE, find_bundle
from wdsr_edge.models import ModelConfig, build
from wdsr_edge.samples import golden_frame
from wdsr_export import deploy, export_onnx, load_model

CONFIG = ModelConfig("wdsr-b", 1, 2, 2)
FILES = ("fp32.onnx", "fp32-float.onnx", WEIGHTS, GOLDEN_LR, GOLDEN_SR)
REUSED = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundles") / "good"
    done = deploy(build(CONFIG), path, {"golden": golden_frame()}, sizes=[(8, 8)], seconds=0)
    assert done.bundle is not None
    return path


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "bundle"))


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"hangs for {seconds} s")  # no OSError, which the code would catch

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(path: Path, words: str = ".") -> None:
    """By both entrances, in one line, without hanging."""
    for entrance in (Bundle.load, wdsr_edge.load):
        with at_most(20), pytest.raises(BundleError, match=words) as caught:
            entrance(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 2000


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


def edit(path: Path, change: Callable[[Manifest], object]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def replace(path: Path, name: str, data: bytes) -> None:
    """A file with its hash mended, as whoever made the bundle would."""
    (path / name).write_bytes(data)
    edit(path, lambda manifest: manifest["files"].__setitem__(name, hashlib.sha256(data).hexdigest()))


def test_a_good_bundle(good: Path) -> None:
    bundle = Bundle.load(good)
    assert bundle.config == CONFIG
    assert bundle.name == "wdsr-b-1x2-x2"
    assert bundle.precisions == ("fp32",)
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
    assert Bundle.load(bundle).precisions == ()
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


# the golden pair


def png(width: int, height: int, *after: tuple[bytes, bytes], pixels: bytes | None = None) -> bytes:
    """A PNG with these sizes in its header and these chunks behind its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    if pixels is None:
        pixels = (b"\0" + b"\x80" * 3 * width) * height if width * height < 1 << 20 else b""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(pixels))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, *after, (b"IEND", b"")])


GOLDENS = {
    "empty": b"",
    "garbage": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "truncated": png(128, 96)[:60],
    "no pixels": png(128, 96, pixels=b""),
    "large": png(5000, 5000),
    "larger than PIL warns of": png(12_000, 9_000),
    "larger than PIL takes": png(60_000, 60_000),
    "largest": png((1 << 31) - 1, (1 << 31) - 1),
    "nothing": png(0, 0),
    "another scale": png(100, 96),
    "gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "text bomb": png(128, 96, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (64 << 20)))),
}


@pytest.mark.parametrize("data", GOLDENS.values(), ids=GOLDENS)
def test_a_golden_frame_that_is_none(data: bytes, bundle: Path) -> None:
    replace(bundle, GOLDEN_LR, data)
    loaded = Bundle.load(bundle)
    with at_most(20), pytest.raises(BundleError) as caught:
        loaded.golden()
    assert "\n" not in str(caught.value)


CHUNKS = "gAMA cHRM sRGB pHYs tRNS PLTE iCCP tEXt zTXt iTXt eXIf acTL fcTL fdAT bKGD IHDR IDAT sBIT tIME abcd".split()  # noqa: SIM905


@pytest.mark.parametrize("kind", CHUNKS)
def test_a_broken_chunk_behind_the_pixels(kind: str, bundle: Path) -> None:
    for payload in (
        start + fill * length for length in (0, 1, 8, 40) for start, fill in ((b"", b"\0"), (b"a\0", b"\xff"))
    ):
        replace(bundle, GOLDEN_LR, png(128, 96, (kind.encode(), payload)))
        loaded = Bundle.load(bundle)
        try:
            lr, _ = loaded.golden()
        except BundleError:
            continue
        assert lr.shape == (96, 128, 3)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=30), position=st.integers(0, 1 << 20))
def test_a_spoiled_golden_frame(data: bytes, position: int, good: Path) -> None:
    directory = good.parent / "spoiled"
    if not directory.exists():
        shutil.copytree(good, directory)
    whole = png(128, 96)
    position %= len(whole)
    replace(directory, GOLDEN_LR, whole[:position] + data + whole[position + len(data) :])
    try:
        Bundle.load(directory).golden()
    except BundleError as error:
        one_line(error)


def test_goldens_of_the_wrong_scale(bundle: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(golden_frame().repeat(3, 0).repeat(3, 1)).save(buffer, "PNG")
    replace(bundle, GOLDEN_SR, buffer.getvalue())
    with pytest.raises(BundleError, match="x2"):
        Bundle.load(bundle).golden()


def test_no_goldens(bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest["files"].pop(GOLDEN_SR))
    with pytest.raises(BundleError, match=r"golden/sr\.png"):
        Bundle.load(bundle).golden()


# the graphs, with the hash mended


def external_data(m: onnx.ModelProto) -> None:
    tensor = m.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def custom_domain(m: onnx.ModelProto) -> None:
    m.graph.node[1].domain = "com.evil"


def custom_operator_set(m: onnx.ModelProto) -> None:
    m.opset_import.append(helper.make_opsetid("com.evil", 1))


def functions(m: onnx.ModelProto) -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    m.functions.append(helper.make_function("", "Relu", ["a"], ["b"], [node], [helper.make_opsetid("", 19)]))


def loop(m: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    m.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], body=body))


def branches(m: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    m.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=body, else_branch=body))


def unknown_operator(m: onnx.ModelProto) -> None:
    m.graph.node.append(helper.make_node("RandomNormal", [], ["x"], shape=[1 << 40]))


def other_input_name(m: onnx.ModelProto) -> None:
    m.graph.input[0].name = "image"


def float_input(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def two_inputs(m: onnx.ModelProto) -> None:
    second = m.graph.input.add()
    second.CopyFrom(m.graph.input[0])
    second.name = "second"


def two_outputs(m: onnx.ModelProto) -> None:
    second = m.graph.output.add()
    second.CopyFrom(m.graph.output[0])
    second.name = "second"


def input_as_first_output(m: onnx.ModelProto) -> None:
    sr = onnx.ValueInfoProto()
    sr.CopyFrom(m.graph.output[0])
    del m.graph.output[:]
    m.graph.output.extend([m.graph.input[0], sr])


def no_output(m: onnx.ModelProto) -> None:
    del m.graph.output[:]


def rank(m: onnx.ModelProto) -> None:
    del m.graph.output[0].type.tensor_type.shape.dim[0]


def no_metadata(m: onnx.ModelProto) -> None:
    del m.metadata_props[:]


def bgr(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith("color_order")).value = '"bgr"'


def another_scale(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith("scale")).value = "3"


def less_halo(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith("halo")).value = "0"


def another_config(m: onnx.ModelProto) -> None:
    entry = next(entry for entry in m.metadata_props if entry.key.endswith("config"))
    entry.value = entry.value.replace('"std": 0.5', '"std": 1.0')


def nested_config(m: onnx.ModelProto) -> None:
    entry = next(entry for entry in m.metadata_props if entry.key.endswith("config"))
    entry.value = "[" * 100_000


def huge_number(m: onnx.ModelProto) -> None:
    entry = next(entry for entry in m.metadata_props if entry.key.endswith("config"))
    entry.value = entry.value.replace('"std": 0.5', '"std": 1' + "0" * 400)


def another_io(m: onnx.ModelProto) -> None:
    next(entry for entry in m.metadata_props if entry.key.endswith(".io")).value = '"float32"'


SPOILERS = (
    external_data, custom_domain, custom_operator_set, functions, loop, branches, unknown_operator, other_input_name,
    float_input, two_inputs, two_outputs, input_as_first_output, no_output, rank, no_metadata, bgr, another_scale,
    less_halo, another_config, nested_config, huge_number, another_io,
)  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_a_hostile_graph(spoil: Callable[[onnx.ModelProto], None], bundle: Path) -> None:
    model = onnx.load(bundle / "fp32.onnx")
    spoil(model)
    replace(bundle, "fp32.onnx", model.SerializeToString())
    refused(bundle, r"fp32\.onnx")


def test_the_graph_of_another_model(bundle: Path, tmp_path: Path) -> None:
    export_onnx(build(ModelConfig("wdsr-b", 1, 4, 2)), tmp_path / "other.onnx")
    replace(bundle, "fp32.onnx", (tmp_path / "other.onnx").read_bytes())
    refused(bundle, "disagrees")


def test_the_two_graphs_swapped(bundle: Path) -> None:
    uint8, floats = (bundle / "fp32.onnx").read_bytes(), (bundle / "fp32-float.onnx").read_bytes()
    replace(bundle, "fp32.onnx", floats)
    replace(bundle, "fp32-float.onnx", uint8)
    refused(bundle, "interface")


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 1000, b"\x7fELF", pickle.dumps([1])])
def test_a_graph_that_is_none(data: bytes, bundle: Path) -> None:
    replace(bundle, "fp32.onnx", data)
    refused(bundle, r"fp32\.onnx")


@pytest.mark.parametrize("seed", range(6))
def test_random_flips_in_a_graph(seed: int, bundle: Path) -> None:
    """Only WdsrError comes out of load, and of a frame. Seeds are fixed: an engine is native code."""
    draw = random.Random(seed)
    data = (bundle / "fp32.onnx").read_bytes()
    frame = golden_frame()[:8, :8]
    for _ in range(20):
        spoiled = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 5))):
            spoiled[draw.randrange(len(spoiled))] = draw.randrange(256)
        replace(bundle, "fp32.onnx", bytes(spoiled))
        try:
            with wdsr_edge.load(bundle) as sr:
                sr(frame)
        except WdsrError as error:
            one_line(error)


def test_a_graph_that_makes_another_size_is_refused(bundle: Path) -> None:
    """The contract says x2; the graph crops nothing and enlarges nothing."""
    model = onnx.load(bundle / "fp32.onnx")
    nodes = [
        helper.make_node("Cast", ["lr"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["f"], ["sr"], to=TensorProto.UINT8),
    ]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    for i, dim in enumerate(("a", "b", "c")):
        model.graph.output[0].type.tensor_type.shape.dim[i].dim_param = dim
    replace(bundle, "fp32.onnx", model.SerializeToString())
    with pytest.raises(WdsrError):  # noqa: PT012
        sr = wdsr_edge.load(bundle, tile=16)
        sr(golden_frame()[:40, :40])
    with pytest.raises(WdsrError):  # noqa: PT012
        sr = wdsr_edge.load(bundle)
        assert sr(golden_frame()[:8, :8]).shape == (16, 16, 3)


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


# write_bundle


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def files_of(path: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(path).items() if name != MANIFEST}


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
    before, files = contents(bundle), files_of(bundle)
    real = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if Path(target) == bundle and (self / MANIFEST).is_file() and not bundle.exists() and not failed:
            failed.append(self)
            raise error
        return real(self, target)

    failed: list[Path] = []
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises((OSError, WdsrError, KeyboardInterrupt)):
        write_bundle(bundle, CONFIG, files, {})
    assert failed
    assert bundle.is_dir()
    assert contents(bundle) == before


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
    with pytest.raises(InputError, match="no bundle"):
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


# what load takes


@pytest.mark.parametrize(
    "name",
    ["", "nothing", "wdsr-b-99x99-x4", "a\0b", "../nothing", "x" * 300, "x/" + "y" * 300, "x/" * 3000, "é", "\ud800"],
    ids=lambda name: repr(name[:12]),
)
def test_a_name_of_nothing(name: str) -> None:
    with pytest.raises((InputError, BundleError)):
        wdsr_edge.load(name)


def test_a_zoo_folder(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ZOO_VARIABLE, str(bundle.parent))
    assert find_bundle("bundle") == bundle
    wdsr_edge.load("bundle").close()
    monkeypatch.setenv(ZOO_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(InputError, match="no model 'bundle'"):
        wdsr_edge.load("bundle")


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16"},
        {"precision": "int8"},
        {"precision": "half"},
        {"precision": None},
        {"backend": "torch"},
        {"backend": "tensorrt"},
        {"backend": None},
        {"device": 1},
        {"engine": "x.plan"},
        {"tile": 0},
        {"tile": -1},
        {"tile": "big"},
        {"tile": 2.5},
        {"tile": True},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], good: Path) -> None:
    with pytest.raises(WdsrError):
        wdsr_edge.load(good, **options)


def test_a_good_bundle_warns_of_nothing(good: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Bundle.load(good).golden()
