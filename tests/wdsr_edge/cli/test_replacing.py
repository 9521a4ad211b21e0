"""What lies at the output, or under a name, is not taken or replaced without a word."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import wdsr_edge as package
from tests.bundles import CONFIG, edit
from tests.command_line import refused
from tests.wdsr_edge.cli.conftest import Command
from wdsr_edge.bundle import Bundle, write_bundle
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.loading import ZOO, ZOO_VARIABLE, find_bundle, is_checkpoint
from wdsr_edge.models import build, save_checkpoint


@pytest.fixture
def other(wdsr_edge: Command) -> str:
    """A checkpoint of another network of the same name, and a small photo, in the current folder."""
    torch.manual_seed(1)
    save_checkpoint(build(CONFIG), "other.safetensors")
    Image.fromarray(golden_frame()[:32, :32]).save("small.png")
    return "other.safetensors"


QUICK = ("--images", "small.png", "--size", "8x6", "--seconds", "0")


def with_int8(source: Path, target: Path) -> Bundle:
    """A copy of a bundle with an INT8 graph for CPUs, which is the FP32 one."""
    bundle = Bundle.load(source)
    files = {name: bundle.read(name) for name in bundle.manifest["files"]}
    entry = {"onnxruntime": {"psnr_db": None, "golden_db": None}}
    details = {**bundle.details, "parity": {**bundle.details["parity"], "int8-cpu": entry}, "training": {"by": "me"}}
    return write_bundle(target, bundle.config, {**files, "int8-cpu.onnx": files["fp32.onnx"]}, details)


def files(folder: str | Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def test_deploy_refuses_to_replace_another_model(wdsr_edge: Command, good: Path, other: str) -> None:
    with_int8(good, Path(CONFIG.name))
    before = files(CONFIG.name)
    refused(
        wdsr_edge("deploy", other, *QUICK),
        f"{CONFIG.name} holds a {CONFIG.name} of other weights, whose INT8 would be lost: choose another folder with "
        "--output, or replace it with --force",
    )
    assert files(CONFIG.name) == before
    done = wdsr_edge("deploy", other, *QUICK, "--force")
    assert done.returncode == 0, done.stderr
    assert "the INT8 of the bundle that was replaced is lost: --calibration makes it" in done.stderr
    assert Bundle.load(CONFIG.name).graphs == ("fp32", "fp16")
    again = wdsr_edge("deploy", other, *QUICK)
    assert again.returncode == 0, "the same weights"
    assert "lost" not in again.stderr


def test_deploy_keeps_int8_and_card_of_the_same_weights(wdsr_edge: Command, good: Path, other: str) -> None:
    with_int8(good, Path("here"))
    shutil.copy(good / "weights.safetensors", "same.safetensors")
    done = wdsr_edge("deploy", "same.safetensors", "-o", "here", *QUICK)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.load("here")
    assert bundle.graphs == ("fp32", "fp16", "int8-cpu")
    assert bundle.manifest["training"] == {"by": "me"}
    assert "lost" not in done.stderr


def test_a_damaged_bundle_of_unknown_weights_is_not_replaced_either(
    wdsr_edge: Command, bundle: Path, other: str
) -> None:
    (bundle / "fp32.onnx").write_bytes(b"")
    refused(wdsr_edge("deploy", other, "-o", bundle, *QUICK), "replace it with --force")
    done = wdsr_edge("deploy", bundle.parent / "work" / other, "-o", bundle, *QUICK, "--force")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("weights", [None, 3, "x"])
def test_a_bundle_that_does_not_say_its_weights_is_another(
    wdsr_edge: Command, bundle: Path, other: str, weights: Any
) -> None:
    edit(bundle, lambda manifest: manifest.update(weights_sha256=weights))
    refused(wdsr_edge("deploy", other, "-o", bundle, *QUICK), "of other weights: choose another folder")


def test_calibrate_refuses_to_replace_another_model(wdsr_edge: Command, good: Path, bundle: Path) -> None:
    edit(bundle, lambda manifest: manifest.update(weights_sha256="another"))
    refused(wdsr_edge("calibrate", good, "--images", ".", "-o", bundle), "of other weights")


SHADOWS = "the folder wdsr-b-1x32-x2 is taken, not the zoo's model of that name: name it ./wdsr-b-1x32-x2 to say so\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("benchmark", "wdsr-b-1x32-x2", "--size", "8x6", "--seconds", "0"),
        ("upscale", "small.png", "-m", "wdsr-b-1x32-x2"),
        ("verify", "wdsr-b-1x32-x2", "--images", "small.png"),
        ("evaluate", "wdsr-b-1x32-x2", "."),
        ("deploy", "wdsr-b-1x32-x2", *QUICK),
        ("export", "wdsr-b-1x32-x2", "-o", "x.onnx"),
        ("compile", "wdsr-b-1x32-x2"),
        ("calibrate", "wdsr-b-1x32-x2", "--images", "."),
    ],
    ids=lambda arguments: arguments[0],
)
def test_each_command_says_that_a_folder_wins_over_the_zoo_once(
    wdsr_edge: Command, good: Path, other: str, arguments: tuple[str, ...]
) -> None:
    shutil.copytree(good, "wdsr-b-1x32-x2")
    assert wdsr_edge(*arguments).stderr.count(SHADOWS) == 1


def test_a_path_or_another_name_is_taken_without_a_word(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_bundle("wdsr-b-1x32-x2") == ZOO / "wdsr-b-1x32-x2"
    for name in ("wdsr-b-1x32-x2", "mine"):
        shutil.copytree(good, name)
    for name in ("./wdsr-b-1x32-x2", tmp_path / "wdsr-b-1x32-x2", "mine", "mine/"):
        find_bundle(name)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        package.load("wdsr-b-1x32-x2", backend="onnxruntime").close()
    assert [record.getMessage() + "\n" for record in caplog.records] == [SHADOWS]


def test_a_file_that_wins_over_the_zoo_is_said_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wdsr-b-1x32-x2").write_bytes(b"")
    assert is_checkpoint("wdsr-b-1x32-x2")
    assert "the file wdsr-b-1x32-x2 is taken" in caplog.text


def test_the_users_own_zoo_counts_too(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("zoo/mine", "mine"):
        shutil.copytree(good, folder)
    monkeypatch.setenv(ZOO_VARIABLE, str(tmp_path / "zoo"))
    assert find_bundle("mine") == Path("mine")
    assert "the folder mine is taken" in caplog.text
    assert json.loads(Path("mine/manifest.json").read_text())["name"] == CONFIG.name
