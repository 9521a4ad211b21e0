"""``wdsr-edge import`` through the real entry point."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.command_line import refused, wdsr_edge
from wdsr_edge.models import ModelConfig, build, load_checkpoint, load_model, save_checkpoint

MODEL = "wdsr-b-3x32-x2"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """The shipped model's weights as another project would save them: what they score is known."""
    torch.save({"epoch": 7, "model_state_dict": load_model(MODEL).state_dict()}, tmp_path / "foreign.pth")
    return tmp_path / "foreign.pth"


def test_the_table_says_what_was_found_and_the_checkpoint_deploys(foreign: Path, tmp_path: Path) -> None:
    done = wdsr_edge("import", foreign, "-o", "new.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in (
        "JiahuiYu/wdsr_ntire2018",
        MODEL,
        "60,455",
        "0.4488, 0.4371, 0.404",
        "what the origin uses",
        "bicubic",
    ):
        assert word in done.stdout
    assert "given" not in done.stdout
    lines = done.stderr.splitlines()
    assert lines == [
        "note: took the weights under model_state_dict",
        "wrote new.safetensors; next: wdsr-edge deploy new.safetensors",
    ]
    assert load_checkpoint(tmp_path / "new.safetensors").config == load_model(MODEL).config
    again = wdsr_edge("export", "new.safetensors", "-o", "m.onnx", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_json_has_the_figures_of_the_shipped_photos(foreign: Path, tmp_path: Path) -> None:
    done = wdsr_edge("import", foreign, "-o", "new folder/new.safetensors", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["origin"], report["model"], report["given"]) == ("JiahuiYu/wdsr_ntire2018", MODEL, [])
    assert report["psnr_y"].keys() == report["bicubic"].keys() == {"chelsea", "coffee", "rocket", "mean"}
    assert report["psnr_y"]["mean"] > report["bicubic"]["mean"] + 1
    assert (report["below_bicubic"], report["advice"]) == (False, "")
    assert report["next"] == "wdsr-edge deploy 'new folder/new.safetensors'"
    assert (tmp_path / report["output"]).is_file()


def test_given_numbers_are_taken_and_a_better_convention_is_named(foreign: Path, tmp_path: Path) -> None:
    """A wrong mean and std cost only tenths of a decibel, so that bicubic alone would not show them."""
    done = wdsr_edge("import", foreign, "-o", "new.safetensors", "--mean", "0.5,0.5,0.5", "--std", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("given") == 2
    assert "warning: another normalisation does better: --mean 0.4488,0.4371,0.404 --std 0.5 gives" in done.stderr
    config = load_checkpoint(tmp_path / "new.safetensors").config
    assert (config.mean, config.std) == ((0.5, 0.5, 0.5), 1)


def test_below_bicubic_the_right_convention_is_named(foreign: Path, tmp_path: Path) -> None:
    done = wdsr_edge("import", foreign, "-o", "new.safetensors", "--std", "0.004", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["below_bicubic"]
    assert "warning: below bicubic: --mean 0.4488,0.4371,0.404 --std 0.5 gives" in done.stderr
    assert load_checkpoint(tmp_path / "new.safetensors").config.std == 0.004


def test_weights_that_nothing_helps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build(ModelConfig("wdsr-a", 1, 4, 4)).state_dict(), tmp_path / "fresh.pt")
    done = wdsr_edge("import", "fresh.pt", "-o", "new.safetensors", "--res-scale", "0.5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: below bicubic, and no known normalisation helps: check --res-scale" in done.stderr
    assert load_checkpoint(tmp_path / "new.safetensors").config.res_scale == 0.5


def test_nothing_is_written_for_bad_input(foreign: Path, tmp_path: Path) -> None:
    save_checkpoint(build(ModelConfig.from_name("wdsr-b-1x8-x2")), tmp_path / "ours.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    out = ["-o", "new.safetensors"]
    cases: list[tuple[list[Any], list[str]]] = [
        (["missing.pt", *out], ["missing.pt", "no such file"]),
        (["ours.safetensors", *out], ["ours.safetensors", "already"]),
        (["ours.safetensors", "-o", "ours.safetensors"], ["ours.safetensors", "choose another name"]),
        ([foreign, "-o", "new.pth"], ["new.pth", ".safetensors"]),
        ([foreign, "-o", "folder.safetensors"], ["folder.safetensors", "directory"]),
        ([foreign, *out, "--mean", "a,b,c"], ["--mean", "a,b,c"]),
        ([foreign, *out, "--mean", "114,111,103"], ["mean", "from 0 to 1"]),
    ]
    for arguments, words in cases:
        refused(wdsr_edge("import", *arguments, cwd=tmp_path), *words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_an_existing_output_is_replaced_and_a_link_to_the_input_is_not(foreign: Path, tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(foreign)
    before = foreign.read_bytes()
    refused(wdsr_edge("import", foreign, "-o", "link.safetensors", cwd=tmp_path), "choose another name")
    assert foreign.read_bytes() == before
    (tmp_path / "old.safetensors").write_text("old")
    assert wdsr_edge("import", foreign, "-o", "old.safetensors", cwd=tmp_path).returncode == 0
    assert len(load_file(tmp_path / "old.safetensors")) > 10


def test_keras_weights(shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "weights" / "krasserm-wdsr-b-16-x4" / "weights.h5"
    done = wdsr_edge("import", weights, "-o", "new.safetensors", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["model"], report["norm"]) == ("wdsr-b-16x32-x4", "none")
    assert report["psnr_y"]["mean"] > report["bicubic"]["mean"] + 1
    assert report["advice"] == ""
