"""What ``wdsr-edge upscale`` keeps of a file beside its pixels, and what it says of the rest."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import Done, refused
from tests.wdsr_edge.images.test_png import CHRM, chunk, png
from wdsr_edge.images.files import read_picture
from wdsr_edge.images.samples import golden_frame

Command = Callable[..., Done]
QUICK = ("--model", "wdsr-b-1x32-x2", "--backend", "onnxruntime", "--precision", "fp32")
FRAME = golden_frame()[:24, :32]
LINEAR = chunk(b"gAMA", struct.pack(">L", 100000)), chunk(b"cHRM", CHRM)
TEXT = chunk(b"tEXt", b"Copyright\0Someone")


def test_what_a_format_does_not_hold_is_said_in_the_line_of_the_file(wdsr_edge: Command) -> None:
    Path("a.png").write_bytes(png(*LINEAR, TEXT, pixels=FRAME))
    done = wdsr_edge("upscale", "a.png", "-o", "a.bmp", *QUICK)
    assert done.returncode == 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("wrote")]
    assert line == (
        "wrote a.bmp (its colours are converted to sRGB: BMP does not hold its profile; BMP does not hold its texts)"
    )
    done = wdsr_edge("upscale", "a.png", "-o", "b.png", *QUICK, "--json")
    assert done.returncode == 0
    assert "does not hold" not in done.stderr
    (entry,) = json.loads(done.stdout)
    assert entry["notes"] == []
    assert read_picture(Path("b.png")).metadata.texts == ((b"tEXt", b"Copyright\0Someone"),)
    assert [name for name, _ in read_picture(Path("b.png")).colour] == [b"gAMA", b"cHRM"]


def test_lossless_and_lossy(wdsr_edge: Command) -> None:
    Image.fromarray(FRAME).save("a.webp", lossless=True)
    for options, lossless in (((), True), (("--quality", "50"), True), (("--lossy",), False)):
        assert wdsr_edge("upscale", "a.webp", "-o", "b.webp", *QUICK, *options).returncode == 0
        assert read_picture(Path("b.webp")).lossless == lossless
    Image.fromarray(FRAME).save("a.png")
    assert wdsr_edge("upscale", "a.png", "--format", "webp", "--lossless", *QUICK).returncode == 0
    assert read_picture(Path("a_x2.webp")).lossless


@pytest.mark.parametrize("suffix", [".jpg", ".avif"])
def test_lossless_is_refused_before_any_work(wdsr_edge: Command, suffix: str) -> None:
    Image.fromarray(FRAME).save("a.png")
    Image.fromarray(FRAME).save(f"b{suffix}")
    done = wdsr_edge("upscale", "a.png", f"b{suffix}", "-o", "out", "--lossless", *QUICK)
    refused(done, "lossy only", f"b{suffix}")
    assert not Path("out").exists()
