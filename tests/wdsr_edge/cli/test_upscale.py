"""``wdsr-edge upscale``: what is taken, what is said about the rest, pipes and interruptions."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.progress import Progress

from tests.command_line import refused
from tests.wdsr_edge.cli.conftest import Command
from wdsr_edge.cli.output import shortened
from wdsr_edge.images.samples import PHOTOS, golden_frame

FAST = ("-m", "wdsr-b-1x32-x2", "--backend", "onnxruntime", "--precision", "fp32")


def save(*names: str, size: tuple[int, int] = (8, 12), kind: str | None = None, **options: Any) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with open(name, "wb") as file:
            suffix = Path(name).suffix.lower()
            Image.fromarray(golden_frame()[: size[0], : size[1]]).save(
                file, kind or {".png": "PNG", ".gif": "GIF", ".jfif": "JPEG"}[suffix], **options
            )


def process(*arguments: str, data: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own, for what capsys has no file descriptors for."""
    command = [sys.executable, "-m", "wdsr_edge", "upscale", *arguments, *FAST]
    return subprocess.run(command, input=data, capture_output=True, check=False, **options)


def png(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(golden_frame()).save(stream, "PNG", **options)
    return stream.getvalue()


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_a_mixed_folder(wdsr_edge: Command) -> None:
    save("in/a.PNG", "in/b.jfif", "in/c.gif", "in/sub/d.png", "in/.e.png")
    save("in/f", kind="AVIF")
    Path("in/g.jxl").touch()
    done = wdsr_edge("upscale", "in", "-o", "out", *FAST)
    assert done.returncode == 0
    assert done.stdout == ""
    assert files("out") == ["a.PNG", "b.jfif", "c.png", "f.avif"]
    assert done.stderr.splitlines()[:2] == [
        "in: passed over 2 files: 1 .jxl, 1 hidden",
        "in: passed over 1 subfolder: --recursive enters them",
    ]
    again = wdsr_edge("upscale", "in", "-o", "out", "--recursive", "--skip-existing", *FAST)
    assert again.returncode == 0
    assert again.stderr.splitlines()[1:] == ["wrote out/sub/d.png", "skipped 4 images: the result is there"]


def test_an_animation_is_said_not_cut(wdsr_edge: Command) -> None:
    save("a.gif", save_all=True, append_images=[Image.new("RGB", (12, 8))])
    refused(wdsr_edge("upscale", "a.gif", *FAST), "a.gif", "2 frames")
    assert files(".") == ["a.gif"]


@pytest.mark.parametrize("good", [[], ["good.png"]])
def test_a_bad_file_gives_the_same_document_alone_and_among_others(wdsr_edge: Command, good: list[str]) -> None:
    save(*good)
    Path("bad.png").write_bytes(png()[:100])
    done = wdsr_edge("upscale", "bad.png", *good, "--json", *FAST)
    assert done.returncode == (1 if good else 2)
    bad = json.loads(done.stdout)[0]
    assert bad["error"].startswith("bad.png: ")
    bad["error"] = ""
    ran = {"backend": "onnxruntime", "precision": "fp32", "auto": None}
    assert bad == {"source": "bad.png", "target": "bad_x2.png", "error": "", "notes": [], "status": "failed", **ran}
    assert files(".") == ["bad.png", *good, *(["good_x2.png"] if good else [])]


def test_existing_results_in_the_document(wdsr_edge: Command) -> None:
    save("a.png", "a_x2.png", "b.png")
    done = wdsr_edge("upscale", "a.png", "b.png", "--skip-existing", "--json", *FAST)
    status = {entry["source"]: entry["status"] for entry in json.loads(done.stdout)}
    assert (done.returncode, status) == (0, {"a.png": "skipped", "b.png": "written"})


def test_a_shipped_photo_is_enlarged_into_the_current_folder(wdsr_edge: Command) -> None:
    before = files(str(PHOTOS))
    assert wdsr_edge("upscale", PHOTOS / "chelsea.png", *FAST).returncode == 0
    assert files(".") == ["chelsea_x2.png"]
    assert files(str(PHOTOS)) == before


def test_the_option_that_the_limit_of_pixels_names(wdsr_edge: Command) -> None:
    save("a.png")
    refused(wdsr_edge("upscale", "a.png", "--max-pixels", "95", *FAST), "--max-pixels")
    assert wdsr_edge("upscale", "a.png", "--max-pixels", "96", *FAST).returncode == 0


@pytest.mark.parametrize("name", ["n\nl.png", "e\x1b[31m.png", "\udcff.png", "ü" * 60 + ".png", "-.png"])
def test_any_name(wdsr_edge: Command, name: str) -> None:
    save(name)
    done = wdsr_edge("upscale", "-o", "out", "--json", *FAST, "--", name)
    assert done.returncode == 0
    assert files("out") == [name]
    assert json.loads(done.stdout)[0]["source"] == name
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-", "a.png"], "give no others"),
        (["a.png", "b.png", "-o", "-"], "one image"),
        (["a.png", "b.png", "-o", "/dev/stdout"], "one image"),
        ([".", "-o", "-"], "one image"),
        (["a.png", "-o", "-", "--json"], "--json"),
        (["-", "-o", "folder"], "suffix"),
        ([""], "empty name"),
        (["a.png", "-o", ""], "empty name"),
        (["a.png", "-o", "-", "--format", "gif"], "gif"),
    ],
)
def test_pipes_that_cannot_be(wdsr_edge: Command, arguments: list[str], words: str) -> None:
    save("a.png", "b.png")
    refused(wdsr_edge("upscale", *arguments, *FAST), words)
    assert files(".") == ["a.png", "b.png"]


def test_through_standard_input_and_output(tmp_path: Path) -> None:
    done = process("/dev/stdin", data=png(), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    with Image.open(io.BytesIO(done.stdout)) as big:
        assert (big.format, big.size) == ("PNG", (256, 192))
    save(str(tmp_path / "-"), kind="PNG")
    done = process("./-", "-o", "-", "--format", "webp", cwd=tmp_path)
    with Image.open(io.BytesIO(done.stdout)) as big:
        assert (big.format, big.size) == ("WEBP", (24, 16))
    assert files(str(tmp_path)) == ["-"]


class Input(io.TextIOWrapper):
    """Standard input that counts what was taken from it."""

    def __init__(self, data: bytes = b"", endless: bool = False, terminal: bool = False) -> None:
        self.raw_data = io.BytesIO(data)
        self.taken = 0
        super().__init__(self.raw_data)
        self.endless, self.terminal = endless, terminal

    @property
    def buffer(self) -> Any:
        return self

    def read(self, size: int | None = -1) -> Any:
        data = self.raw_data.read(min(7, size or 0) if self.taken < 64 else size)  # as a slow pipe gives it
        if self.endless and not data:
            data = bytes(size or 0)
        self.taken += len(data)
        return data

    def isatty(self) -> bool:
        return self.terminal


def test_standard_input_into_a_file(wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Input(png()))
    done = wdsr_edge("upscale", "/dev/stdin", "-o", "x.jpg", "--json", *FAST)
    (one,) = json.loads(done.stdout)
    assert (one["source"], one["target"], one["status"]) == ("-", "x.jpg", "written")
    assert files(".") == ["x.jpg"]
    Path("plain").touch()
    assert stat.S_IMODE(Path("x.jpg").stat().st_mode) == stat.S_IMODE(Path("plain").stat().st_mode)


@pytest.mark.parametrize(
    ("stdin", "words", "most"),
    [
        (Input(), "standard input is empty", 0),
        (Input(b"hello"), "standard input is not a PNG", 5),
        (Input(endless=True), "standard input is not a PNG", 64),
        (Input(png()[:2000]), "standard input: cannot be read", 2000),
        (Input(png()[:64], endless=True), "--max-pixels", 70 << 20),
        (Input(terminal=True), "standard input is a terminal", 0),
        (None, "standard input is closed", 0),
    ],
)
def test_standard_input_that_is_not_an_image(
    wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stdin: Any, words: str, most: int
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refused(wdsr_edge("upscale", "-", "-o", "x.png", "--max-pixels", "12288", *FAST), words)
    assert stdin is None or stdin.taken <= most
    assert files(".") == []
    assert not list(tmp_path.glob("wdsr-edge-*"))


def test_a_terminal_gets_no_image(tmp_path: Path) -> None:
    save(str(tmp_path / "a.png"))
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "wdsr_edge", "upscale", "a.png", "-o", "-"]
    done = subprocess.run(command, stdout=child, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert b"is a terminal" in done.stderr
    os.close(parent)
    os.close(child)


@pytest.mark.parametrize("arguments", [["a.png", "-o", "-"], ["a.png", "--json"]])
def test_who_reads_may_go(arguments: list[str], tmp_path: Path) -> None:
    save(str(tmp_path / "a.png"), size=(96, 128))
    command = [sys.executable, "-m", "wdsr_edge", "upscale", *arguments, *FAST]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr in (b"", b"wrote a_x2.png\n")


def test_a_full_disk_behind_standard_output(tmp_path: Path) -> None:
    save(str(tmp_path / "a.png"))
    command = [sys.executable, "-m", "wdsr_edge", "upscale", "a.png", "-o", "-", *FAST]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == b"wdsr-edge: cannot write to standard output: No space left on device\n"


def test_a_folder_that_cannot_be_written(wdsr_edge: Command) -> None:
    save("a.png", "b.png")
    Path("out").symlink_to("/proc")
    done = wdsr_edge("upscale", "a.png", "b.png", "-o", "out", *FAST)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["failed", "failed", "2 of 2 images failed"]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interruption_lists_what_was_written(number: int, tmp_path: Path) -> None:
    names = [f"{index}.png" for index in range(60)]
    save(str(tmp_path / names[0]), size=(96, 128))
    for name in names[1:]:
        os.link(tmp_path / names[0], tmp_path / name)
    command = [sys.executable, "-m", "wdsr_edge", "upscale", *names, "-o", "out", "--json", *FAST]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    out = tmp_path / "out"
    while not (out / "1.png").exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(number)
    stdout, stderr = running.communicate()
    assert running.returncode == 128 + number
    written = sorted(entry["target"] for entry in json.loads(stdout))
    assert written == sorted(f"out/{path.name}" for path in out.iterdir())
    assert 2 <= len(written) < 60
    said = stderr.decode().splitlines()
    assert sorted(line for line in said if line.startswith("wrote ")) == [f"wrote {name}" for name in written]
    assert f"{60 - len(written)} of 60 images not done" in said
    for path in out.iterdir():
        with Image.open(path) as image:
            image.load()


@pytest.mark.parametrize("text", ["short.png", "a" * 200 + ".png", "画" * 80 + ".png", "e\u0301" * 50, ""])
@pytest.mark.parametrize("width", [1, 2, 5, 30, 31])
def test_shortened_names_keep_their_ends(text: str, width: int) -> None:
    from rich.cells import cell_len

    short = shortened(text, width)
    assert cell_len(short) <= width
    if cell_len(text) <= width:
        assert short == text
    elif width >= 30 and text.endswith(".png"):
        assert short.endswith(".png")
        assert "…" in short
        assert cell_len(short) >= width - 2


def test_the_bar_of_one_image_moves_with_its_tiles(wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    save("a.png", size=(96, 128))
    moved: list[float] = []
    update = Progress.update

    def recorded(self: Progress, task: Any, *, completed: float, **options: Any) -> None:
        moved.append(completed)
        update(self, task, completed=completed, **options)

    monkeypatch.setattr(Progress, "update", recorded)
    assert wdsr_edge("upscale", "a.png", "--tile", "32", *FAST).returncode == 0
    assert moved == sorted(moved)
    assert (moved[0], moved[-1]) == (0, 1)
    assert len(moved) > 5
