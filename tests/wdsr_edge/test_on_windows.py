"""The commands and the library on a simulated Windows, through the real entry points, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import Done, refused
from wdsr_edge.images.files import read_rgb
from wdsr_edge.images.samples import frame_of_size
from wdsr_edge.loading import ZOO

ROOT = Path(__file__).parents[2]
MODEL = "wdsr-b-1x32-x2"
AS_IN = ("--model", MODEL)


def windows(folder: Path, *arguments: str | Path) -> Done:
    env = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "COLUMNS")}
    env |= {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "calibration"))),
        "PYTHONIOENCODING": "cp1252",
        "LOCALAPPDATA": str(folder / "Local"),
        "SYSTEMROOT": str(folder / "Windows"),
    }
    command = [sys.executable, "-X", "warn_default_encoding", "-m", "tests.simulated_windows", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="cp1252", cwd=folder, env=env, check=False)
    foreign = re.compile(r".*/site-packages/.*EncodingWarning.*\n.*\n")
    return Done(done.returncode, done.stdout, foreign.sub("", done.stderr))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(frame_of_size(48, 64)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_doctor(tmp_path: Path) -> None:
    done = windows(tmp_path, "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["memory_gib"] == 16.0
    assert report["cuda"] == "no NVIDIA GPU here"
    assert report["onnxruntime_providers"]["CPUExecutionProvider"] == "works"
    assert report["cpu"]["cores"] >= 1


def test_verify(tmp_path: Path) -> None:
    done = windows(tmp_path, "verify", MODEL, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["passed"]


@pytest.mark.slow
def test_benchmark_keeps_what_it_measured_where_windows_has_caches(tmp_path: Path) -> None:
    done = windows(tmp_path, "benchmark", MODEL, "--size", "16x16", "--seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert {one["backend"] for one in json.loads(done.stdout)["choices"]} == {"onnxruntime", "openvino"}
    assert len([*(tmp_path / "Local" / "wdsr-edge" / "Cache" / "speed").glob("*.json")]) == 1


def test_upscale_writes_over_a_file_in_another_case(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "Big.PNG").write_bytes(b"old")
    done = windows(tmp_path, "upscale", photo, *AS_IN, "--output", "BIG.png")
    assert done.returncode == 0, done.stderr
    (big,) = tmp_path.glob("*[gG].*")
    assert read_rgb(big).shape == (96, 128, 3)
    assert {path.name for path in tmp_path.iterdir()} <= {"in.png", big.name, "Local"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("IN.PNG", "is an input and would be lost"),
        ("con.png", "is not a name for a file on Windows"),
        ("NUL", "is not a name for a file on Windows"),
        ("aux/x.png", "is not a name for a file on Windows"),
        ("a?.png", "is not a name for a file on Windows"),
    ],
)
def test_upscale_refuses_what_windows_would_lose(output: str, words: str, tmp_path: Path, photo: Path) -> None:
    refused(windows(tmp_path, "upscale", photo, *AS_IN, "--output", output), words)
    assert {path.name for path in tmp_path.iterdir()} <= {"in.png", "Local"}


@pytest.mark.slow
def test_two_images_whose_names_differ_in_case_alone_are_refused(tmp_path: Path, photo: Path) -> None:
    for folder, name in (("a", "x.png"), ("b", "X.png")):
        (tmp_path / folder).mkdir()
        shutil.copy(photo, tmp_path / folder / name)
    refused(windows(tmp_path, "upscale", "a/x.png", "b/X.png", *AS_IN, "-o", "out"), "would both become")


PROGRAM = """
import os, sys
assert sys.platform == "win32" and not hasattr(os, "fork")
import numpy as np
import wdsr_edge
with wdsr_edge.load(sys.argv[3]) as sr:
    frame = np.zeros((9, 7, 3), np.uint8)
    assert sr(frame).shape == (18, 14, 3)
    assert sr(frame.astype(np.float32)).shape == (18, 14, 3)
    assert sr.submit(frame).result().shape == (18, 14, 3)

from wdsr_edge.bundle import Bundle, write_bundle
old = Bundle.load(sys.argv[3])
files = {name: old.read(name) for name in old.manifest["files"]}
for note in (1, 2):  # the second time over the first
    made = write_bundle("mine", old.config, files, {**old.details, "note": note})
assert Bundle.load("MINE").details["note"] == 2
with open("mine/fp16.onnx", "rb"):  # in use, so that the folder cannot be moved
    try:
        write_bundle("mine", old.config, files, {**old.details, "note": 3})
    except wdsr_edge.WdsrError as error:
        print(error)
assert Bundle.load("mine").details["note"] == 2
assert sorted(os.listdir(".")) in (["Local", "mine"], ["mine"]), os.listdir(".")

from wdsr_edge.backends.tensorrt.build import Built
from wdsr_edge.backends.tensorrt.cache import Builder, EngineCache
from wdsr_edge.backends.tensorrt.config import EngineConfig, Profile
cache, config = EngineCache(), EngineConfig((Profile.static(8, 8),))
for version in ("10.3", "10.3", "10.7"):
    builder = Builder("tensorrt", version, "GPU", 89)
    found = cache.get(b"graph", "fp16", config, builder, lambda timing: Built(b"engine", "layers", b"timing", 0.1))
    print(found.built)
print(len(cache.entries()), cache.folder.relative_to(os.environ["LOCALAPPDATA"]))
"""


def test_the_library_bundles_and_the_engine_cache(tmp_path: Path) -> None:
    done = windows(tmp_path, "-c", PROGRAM, ZOO / MODEL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "cannot write mine: The process cannot access the file because it is being used",
        "it was not built here before",
        "",
        "the one in the cache is of another build: version was 10.3",
        "2 wdsr-edge/Cache/engines",
    ]


@pytest.mark.slow
def test_the_simulation_is_as_strict_as_windows(tmp_path: Path) -> None:
    program = """
import mmap, os
(Path("A")).write_text("a", encoding="utf-8")
def fails(kind, call, *arguments):
    try:
        call(*arguments)
    except kind:
        return
    raise AssertionError(call, arguments)
assert os.path.exists("a") and os.path.samefile("a", "A")
Path("b").write_text("b", encoding="utf-8")
fails(FileExistsError, os.rename, "a", "B")
with open("b", "rb") as file:
    fails(PermissionError, os.replace, "a", "b")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        file.close()
        fails(PermissionError, os.unlink, "b")
os.replace("a", "b")
os.mkdir("d"), os.mkdir("e")
fails(PermissionError, os.replace, "d", "e")
fails(OSError, open, "x?y", "wb")
with open("nul.txt", "wb") as file:
    file.write(b"lost")
assert sorted(os.listdir(".")) == ["b", "d", "e"], os.listdir(".")
fails(ImportError, __import__, "fcntl")
"""
    done = windows(tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
