"""Each command that sets or uses what auto is ends with a line that says so."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.wdsr_edge.cli.conftest import Command
from wdsr_edge.images.samples import golden_frame

TODAY = datetime.date.today().isoformat()


def last(stderr: str) -> str:
    return stderr.rstrip("\n").rpartition("\n")[2]


def test_upscale_says_what_auto_was_before_and_after_a_benchmark(wdsr_edge: Command, bundle: Path) -> None:
    Image.fromarray(golden_frame()).save("small.png")
    before = wdsr_edge("upscale", "small.png", "-m", bundle)
    assert before.returncode == 0
    assert last(before.stderr).startswith("auto is onnxruntime in fp32: ")
    assert last(before.stderr).endswith("since nothing was measured here: wdsr-edge benchmark MODEL times all")
    timed = wdsr_edge("benchmark", bundle, "--size", "8x6", "--seconds", "0", "--json")
    auto = json.loads(timed.stdout)["auto"]
    assert (auto["size"], auto["measured"], auto["precision"], auto["asked"]) == ("8x6", TODAY, "fp32", False)
    assert auto["ms"] > 0
    said = last(timed.stderr)
    assert said.startswith(f"auto is {auto['backend']} in fp32: {auto['ms']:.1f} ms for 8x6, ")
    assert said.endswith(f"measured here on {TODAY}")
    after = wdsr_edge("upscale", "small.png", "-m", bundle, "--json")
    assert last(after.stderr) == said
    (entry,) = json.loads(after.stdout)
    assert (entry["backend"], entry["precision"], entry["auto"]) == (auto["backend"], "fp32", auto)
    options = ("--backend", "onnxruntime", "--precision", "fp32", "--json")
    asked = wdsr_edge("upscale", "small.png", "-m", bundle, *options)
    assert "auto is" not in asked.stderr
    (entry,) = json.loads(asked.stdout)
    assert (entry["backend"], entry["precision"], entry["auto"]) == ("onnxruntime", "fp32", None)


def test_deploy_says_what_auto_is_from_now_on(wdsr_edge: Command, bundle: Path) -> None:
    Image.fromarray(golden_frame()[:32, :32]).save("small.png")
    options = ("-o", "again", "--images", "small.png", "--size", "8x6", "--seconds", "0")
    done = wdsr_edge("deploy", bundle, *options)
    assert done.returncode == 0, done.stderr
    assert last(done.stderr).startswith("auto is ")
    assert " ms for 8x6, " in last(done.stderr)
    document = wdsr_edge("deploy", bundle, *options, "--json")
    assert json.loads(document.stdout)["auto"]["measured"] == TODAY


def test_deploy_says_what_many_levels_mean(wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wdsr_edge.cli.deploy._MANY_LEVELS", 0)
    Image.fromarray(golden_frame()).save("small.png")
    images = ("--images", "small.png", "--size", "8x6", "--seconds", "0")
    done = wdsr_edge("deploy", "wdsr-b-1x32-x2", "-o", "out", *images)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if " in INT8 is the worst of all values" in line]
    assert "(root mean square)" in line
