"""``wdsr-edge calibrate`` through the entry point, on few and small images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import refused
from tests.strategies import trained_like
from tests.wdsr_edge.cli.conftest import Command
from wdsr_calibration import Loss
from wdsr_edge import Bundle, load
from wdsr_edge.backends import ON_CPU
from wdsr_edge.config import ModelConfig
from wdsr_edge.images import samples
from wdsr_edge.images.drawn import KINDS
from wdsr_edge.loading import ZOO
from wdsr_edge.models import save_checkpoint

MODEL = "wdsr-b-1x32-x2"
LOSING = {"photographs": Loss(0.5, 0.5, float("inf"))}
QUICK = ["--crops", "8", "--crop-size", "24", "--held-out", "2", "--drawn", "0", "--steps", "3"]


@pytest.fixture
def photos() -> str:
    """In the folder where the command runs."""
    Path("photos").mkdir()
    for name, frame in samples.sample_frames().items():
        for i in range(3):
            piece = frame[i * 64 : i * 64 + 96, 30:190]
            if min(piece.shape[:2]) >= 64:
                Image.fromarray(piece).save(Path("photos", f"{i}-{Path(name).stem}.png"))
    return "photos"


def test_it_adds_int8_to_a_bundle(wdsr_edge: Command, photos: str) -> None:
    done = wdsr_edge(
        "calibrate", MODEL, "--images", photos, "--max-drop", "1", "-o", "out", *QUICK, "--frontier", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["met"], report["bundle"]) == (True, "out")
    bundle, before = Bundle.load("out"), Bundle.load(ZOO / MODEL)
    assert bundle.graphs == ("fp32", "fp16", "int8", "int8-cpu")
    for name in before.manifest["files"]:
        if "int8" not in name and "calibration" not in name:
            assert bundle.read(name) == before.read(name)
    assert bundle.manifest["training"] == before.manifest["training"]
    calibration = bundle.manifest["calibration"]
    assert (calibration["crops"], calibration["size"], calibration["max_drop_db"]) == ({"photographs": 8}, 24, 1.0)
    for graph in calibration["graphs"].values():
        assert set(graph["float"]) >= {"head", "skip"}
        assert {*graph["float"], *graph["convs"]} == {
            "head",
            "skip",
            "tail",
            *(f"body.0.branch.{i}" for i in (0, 2, 3)),
        }
        assert all(losses.keys() == {"photographs"} for losses in graph["losses"].values())
    assert len(calibration["images_sha256"]) == 64
    assert calibration["graphs"].keys() == {"int8", "int8-cpu"}
    frontier = json.loads(bundle.read("calibration.json"))
    assert all(entry["frontier"] and entry["sensitivity_db"] for entry in frontier.values())
    with Image.open("out/calibration.png") as picture:
        assert picture.size[0] > 300
    lr, sr = bundle.golden()
    for backend in ON_CPU:
        with load("out", precision="int8", backend=backend) as upscale:
            apart = np.square(upscale(lr).astype(float) - sr).mean()
        recorded = bundle.manifest["parity"]["int8-cpu"][backend]["golden_db"]
        assert 10 * np.log10(255**2 / apart) == pytest.approx(recorded)
    again = wdsr_edge("verify", "out", "--json")
    assert again.returncode == 0, again.stdout
    assert {entry["precision"] for entry in json.loads(again.stdout)["precisions"]} == {*bundle.graphs}


def test_the_table_and_the_same_bytes_again(wdsr_edge: Command, photos: str) -> None:
    command = ["calibrate", MODEL, "--images", photos, "--max-drop", "1", *QUICK]
    done = wdsr_edge(*command, "-o", "a")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{MODEL} in INT8")
    for words in ("drop on photographs", "INT8 share of the body", "100%", "ranges"):
        assert words in done.stdout
    assert done.stderr.splitlines()[0].startswith("8 crops (photographs), drop measured on 2 other images; ")
    assert wdsr_edge(*command, "-o", "b").returncode == 0
    for name in Bundle.load("a").manifest["files"]:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes(), name
    assert Path("a/manifest.json").read_bytes() == Path("b/manifest.json").read_bytes()


def test_a_bundle_is_calibrated_in_place(wdsr_edge: Command, photos: str) -> None:
    save_checkpoint(trained_like(ModelConfig("wdsr-b", 1, 8, 2)), "net.safetensors")
    assert wdsr_edge("deploy", "net.safetensors", "-o", "bundle", "--size", "8x8", "--seconds", "0").returncode == 0
    done = wdsr_edge("calibrate", "bundle/", "--images", photos, "--max-drop", "30", "--identities", "int8", *QUICK)
    assert done.returncode == 0, done.stderr
    bundle = Bundle.load("bundle")
    assert bundle.manifest["calibration"]["graphs"]["int8"]["identities"] == ["add"]
    assert "p50_ms" not in json.loads(bundle.read("calibration.json"))["int8-cpu"]["frontier"][0]


def test_the_frontier_is_timed_on_request(wdsr_edge: Command, photos: str) -> None:
    done = wdsr_edge("calibrate", MODEL, "--images", photos, "--max-drop", "1", *QUICK, "--time", "-o", "out")
    assert done.returncode == 0, done.stderr
    found = json.loads(Bundle.load("out").read("calibration.json"))
    for entry in found["int8-cpu"]["frontier"]:
        assert entry["p50_ms"].keys() == {*ON_CPU}
        assert all(ms > 0 for ms in entry["p50_ms"].values())
    assert not any("p50_ms" in entry for entry in found["int8"]["frontier"])  # TensorRT is not here


def test_a_budget_that_cannot_be_met_writes_nothing(
    wdsr_edge: Command, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wdsr_calibration.drop.Drop.__call__", lambda self, network, placement: LOSING)
    done = wdsr_edge("calibrate", MODEL, "--images", photos, "--max-drop", "0.4", "-o", "out", *QUICK)
    assert done.returncode == 1
    assert (
        "no placement stays within 0.4 dB on photographs and 0.05 dB on drawn kinds; nothing was written" in done.stderr
    )
    assert "drop on photographs" in done.stdout
    assert not Path("out").exists()
    done = wdsr_edge("calibrate", MODEL, "--images", photos, "--max-drop", "0.4", "-o", "out", *QUICK, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (report["met"], report["bundle"]) == (False, None)
    assert not any(graph["met"] for graph in report["graphs"].values())


def test_the_manifest_that_ships_wants_its_images(wdsr_edge: Command, photos: str) -> None:
    done = wdsr_edge("calibrate", MODEL, "--images", photos, "--manifest", "div2k")
    refused(done, "photos lacks 152 of the images that div2k.toml names")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([MODEL], ["--images"]),
        ([MODEL, "--images", "none"], ["none"]),
        (["none", "--images", "photos"], ["no model 'none'"]),
        (["net.safetensors", "--images", "photos"], ["net.safetensors is not a bundle", "deploy"]),
        (["net.onnx", "--images", "photos"], ["net.onnx is not a bundle", "weights", "import"]),
        ([MODEL, "--images", "photos", "--max-drop", "-1"], ["budget", "-1"]),
        ([MODEL, "--images", "photos", "--max-drop", "nan"], ["budget"]),
        ([MODEL, "--images", "photos", "--ranges", "guess"], ["ranges", "min-max"]),
        ([MODEL, "--images", "photos", "--layers", "tail"], ["layers", "all, body"]),
        ([MODEL, "--images", "photos", "--identities", "some"], ["identities", "float, int8, auto"]),
        ([MODEL, "--images", "photos", "--crops", "0"], ["crops"]),
        ([MODEL, "--images", "photos", "--manifest", "div3k"], ["div3k", "div2k"]),
        ([MODEL, "--images", "photos", "--images", "photos", "--manifest", "div2k"], ["--manifest takes one"]),
        ([MODEL, "--images", "photos", "-o", "photos"], ["photos exists and is not a bundle"]),
    ],
)
def test_bad_input_is_one_line(wdsr_edge: Command, photos: str, arguments: list[str], words: list[str]) -> None:
    options = [] if "--crops" in arguments or "--manifest" in arguments else QUICK
    before = sorted(Path().rglob("*"))
    done = wdsr_edge("calibrate", *arguments, *options)
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert lines[-1].startswith("wdsr-edge: ")
    assert all(word in lines[-1] for word in words), lines
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_drawn_pictures_count_next_to_photographs(wdsr_edge: Command, photos: str) -> None:
    few = [*QUICK[:6], "--drawn", "1", "--steps", "2", "--ranges", "mse"]
    command = ["calibrate", MODEL, "--images", photos, "--max-drop", "1", "--max-drop-drawn", "9", *few, "-o", "out"]
    done = wdsr_edge(*command)
    assert done.returncode == 0, done.stderr
    assert "drop on the worst drawn kind" in done.stdout
    calibration = Bundle.load("out").manifest["calibration"]
    assert calibration["crops"].keys() == {"photographs", *KINDS}
    assert calibration["budget"]["drawn_db"] == pytest.approx(9.01)
    for graph in calibration["graphs"].values():
        assert all(losses.keys() == {"photographs", *KINDS} for losses in graph["losses"].values())
