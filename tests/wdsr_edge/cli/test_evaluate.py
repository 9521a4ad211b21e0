"""``wdsr-edge evaluate``: figures as papers print them, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import refused
from tests.strategies import trained_like
from tests.wdsr_edge.cli.conftest import Command
from wdsr_edge import load
from wdsr_edge.config import ModelConfig
from wdsr_edge.data.pairs import bicubic, load_pairs
from wdsr_edge.evaluation import evaluate, mean_score, self_ensemble
from wdsr_edge.images import samples
from wdsr_edge.models import reference, save_checkpoint
from wdsr_edge.robustness import compare

MODEL = "wdsr-b-3x32-x2"
FIGURES = ("psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb")


@pytest.fixture
def photos() -> Path:
    """Two small pictures, in the working folder."""
    Path("photos").mkdir()
    Image.fromarray(samples.golden_frame()).save("photos/golden.png")
    Image.fromarray(samples.golden_frame()[:61, :47]).save("photos/odd.png")
    return Path("photos")


def rounded(table: str) -> dict[str, list[float]]:
    """The rows of the table: name to figures."""
    rows = [line.split() for line in table.splitlines()[2:] if line.strip()]
    return {row[0]: [float(figure) for figure in row[1:]] for row in rows}


def test_the_table_has_every_image_the_mean_and_bicubic(wdsr_edge: Command, photos: Path) -> None:
    done = wdsr_edge("evaluate", MODEL, photos)
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["photos: 2 images, LR by exact bicubic"]
    assert done.stdout.splitlines()[0].rstrip() == f"{MODEL} on photos"
    assert done.stdout.splitlines()[1].split("  ")[0] == "image"
    pairs = load_pairs([photos], 2)
    ours, plain = (evaluate(upscale, pairs) for upscale in (load(MODEL), lambda lr: bicubic(lr, 2)))
    expected = [*ours, mean_score(ours), mean_score(plain)]
    for (name, figures), score in zip(rounded(done.stdout).items(), expected, strict=True):
        assert name in (score.name, "bicubic")
        assert figures == pytest.approx([getattr(score, figure) for figure in FIGURES], abs=6e-3)


def test_int8_of_a_bundle_and_none_of_a_checkpoint(wdsr_edge: Command, photos: Path) -> None:
    options = ["--precision", "int8", "--backend", "openvino"]
    done = wdsr_edge("evaluate", MODEL, photos, *options, "--json")
    found = json.loads(done.stdout)["photos"]["mean"]
    pairs = load_pairs([photos], 2)
    with load(MODEL, precision="int8", backend="openvino") as sr:
        assert found == asdict(mean_score(evaluate(sr, pairs)))
    exact = mean_score(evaluate(load(MODEL, precision="fp32"), pairs)).psnr_y
    assert 0 < abs(found["psnr_y"] - exact) < 0.2  # two small pictures that FP32 brings back to 38.9 dB
    save_checkpoint(trained_like(ModelConfig("wdsr-b", 1, 8, 2)), "net.safetensors")
    refused(wdsr_edge("evaluate", "net.safetensors", photos, *options), "a checkpoint runs in PyTorch")


def test_json_is_exact(wdsr_edge: Command, photos: Path) -> None:
    done = wdsr_edge("evaluate", MODEL, photos, "--json")
    document = json.loads(done.stdout)
    pairs = load_pairs([photos], 2)
    ours, plain = (evaluate(upscale, pairs) for upscale in (load(MODEL), lambda lr: bicubic(lr, 2)))
    assert document == {
        "photos": {
            "images": [asdict(score) for score in ours],
            "mean": asdict(mean_score(ours)),
            "bicubic": asdict(mean_score(plain)),
        }
    }
    assert document["photos"]["mean"]["psnr_y"] > document["photos"]["bicubic"]["psnr_y"] + 0.3


def test_csv_has_a_line_for_each_image(wdsr_edge: Command, photos: Path) -> None:
    document = json.loads(wdsr_edge("evaluate", MODEL, photos, photos / "golden.png", "--json").stdout)
    done = wdsr_edge("evaluate", MODEL, photos, photos / "golden.png", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["set"], row["image"]) for row in rows] == [
        ("photos", "golden"),
        ("photos", "odd"),
        ("photos", "mean"),
        ("photos/golden.png", "golden"),
        ("photos/golden.png", "mean"),
    ]
    for row in rows:
        found = document[row["set"]]
        (score,) = (score for score in [*found["images"], found["mean"]] if score["name"] == row["image"])
        assert [float(row[figure]) for figure in FIGURES] == [score[figure] for figure in FIGURES]
        if row["image"] == "mean":
            assert [float(row[f"bicubic_{figure}"]) for figure in FIGURES] == [found["bicubic"][f] for f in FIGURES]


def test_a_checkpoint_is_evaluated_by_the_reference(wdsr_edge: Command, photos: Path) -> None:
    model = trained_like(ModelConfig("wdsr-a", 1, 8, 3, norm="batch"))
    save_checkpoint(model, "net.safetensors")
    document = json.loads(wdsr_edge("evaluate", "net.safetensors", photos, "--json").stdout)
    assert document["photos"]["mean"] == asdict(mean_score(evaluate(reference(model), load_pairs([photos], 3))))


def test_self_ensemble_is_the_mean_of_eight(wdsr_edge: Command, photos: Path) -> None:
    done = wdsr_edge("evaluate", MODEL, photos, "--self-ensemble")
    assert done.stdout.splitlines()[0].rstrip() == f"{MODEL} on photos, self-ensemble"
    document = json.loads(wdsr_edge("evaluate", MODEL, photos, "--self-ensemble", "--json").stdout)
    expected = mean_score(evaluate(self_ensemble(load(MODEL)), load_pairs([photos], 2)))
    assert document["photos"]["mean"] == asdict(expected)
    alone = json.loads(wdsr_edge("evaluate", MODEL, photos, "--json").stdout)
    assert document["photos"]["mean"] != alone["photos"]["mean"]
    assert document["photos"]["bicubic"] == alone["photos"]["bicubic"]


@pytest.mark.parametrize("by", ["option", "variable"])
def test_sets_are_found_by_name(wdsr_edge: Command, photos: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("data/eval").mkdir(parents=True)
    photos.rename("data/eval/Set5")
    place = ["--datasets", "data"]
    if by == "variable":
        monkeypatch.setenv("WDSR_EDGE_DATA", "data")
        place = []
    assert list(json.loads(wdsr_edge("evaluate", MODEL, "set5", *place, "--json").stdout)) == ["set5"]
    refused(wdsr_edge("evaluate", MODEL, "Set14", *place), "Set14", "data, which holds eval")


Layout = Callable[[str], tuple[str, str]]
LAYOUTS: dict[str, Layout] = {
    "DIV2K": lambda name: (f"DIV2K_valid_HR/{name}.png", f"DIV2K_valid_LR_bicubic/X2/{name}x2.png"),
    "EDSR": lambda name: (f"HR/{name}.png", f"LR_bicubic/X2/{name}x2.png"),
    "SelfExSR": lambda name: (f"image_SRF_2/{name}_SRF_2_HR.png", f"image_SRF_2/{name}_SRF_2_LR.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_lr_is_taken_from_the_layout(wdsr_edge: Command, layout: Layout) -> None:
    """The LR file is another picture than the HR file's, so the figures say which was used."""
    hr = samples.golden_frame()
    for path, image in zip(layout("one"), (hr, bicubic(hr[::-1], 1 / 2)), strict=True):
        Path("set", path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(Path("set", path))
    done = wdsr_edge("evaluate", MODEL, "set", "--json")
    assert done.stderr.splitlines() == ["set: 1 image, LR from its files"]
    (score,) = evaluate(lambda _: bicubic(bicubic(hr[::-1], 1 / 2), 2), load_pairs(["set"], 2))
    assert json.loads(done.stdout)["set"]["bicubic"]["psnr_y"] == score.psnr_y < 20


def test_images_too_small_for_a_figure_are_left_out(wdsr_edge: Command, photos: Path) -> None:
    Image.fromarray(samples.golden_frame()[:12, :12]).save("photos/tiny.png")
    done = wdsr_edge("evaluate", MODEL, photos, "--csv")
    assert done.returncode == 0
    assert "tiny" not in done.stdout
    assert done.stderr.splitlines()[0] == "photos/tiny.png is smaller than 16 pixels a side: left out"
    refused_ = wdsr_edge("evaluate", MODEL, "photos/tiny.png")
    assert (refused_.returncode, refused_.stdout) == (2, "")
    assert refused_.stderr.splitlines()[-1] == "wdsr-edge: no image that is large enough in photos/tiny.png"


def test_perfect_images_are_infinitely_good(wdsr_edge: Command) -> None:
    """A flat picture has nothing to get wrong; JSON has no infinity."""
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("black.png")
    document = json.loads(wdsr_edge("evaluate", MODEL, "black.png", "--json").stdout)
    assert document["black.png"]["bicubic"]["psnr_y"] == "inf"
    assert document["black.png"]["bicubic"]["ssim_y"] == pytest.approx(1)


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
@pytest.mark.parametrize("name", ["[red]x \n.png", 'a,b"c.png', os.fsdecode(b"lat\xe9in.png")], ids=ascii)
def test_an_image_may_have_any_name(wdsr_edge: Command, name: str, form: list[str]) -> None:
    Path("set").mkdir()
    Image.fromarray(samples.golden_frame()).save(Path("set", name))
    done = wdsr_edge("evaluate", MODEL, "set", *form)
    assert done.returncode == 0
    assert name[:3] in done.stdout.replace('\\"', '"')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["MODEL"]),
        ([MODEL], ["SET"]),
        ([MODEL, "missing"], ["missing", "WDSR_EDGE_DATA"]),
        ([MODEL, "missing/Set5"], ["missing/Set5", "no such file or folder"]),
        ([MODEL, "Set5", "--datasets", "missing"], ["Set5", "missing", "nothing"]),
        ([MODEL, "nothing"], ["nothing", "no images"]),
        ([MODEL, "broken.png"], ["broken.png", "is the file complete?"]),
        ([MODEL, "photos", "broken.png"], ["broken.png"]),
        ([MODEL, "pair"], ["onex2.png", "is 20x20, and not 1/2 of", "one.png"]),
        ([MODEL, "photos", "--csv", "--json"], ["--csv and --json"]),
        (["nobody", "photos"], ["nobody", MODEL]),
        (["missing.safetensors", "photos"], ["missing.safetensors", "no such file"]),
        (["broken.png", "photos"], ["broken.png", "safetensors"]),
        ([MODEL, "photos", "--device", "cuda"], ["--device is for checkpoints"]),
        (["net.safetensors", "photos", "--device", "tpu"], ["device must be", "tpu"]),
        (["net.safetensors", "photos", "--device", "cuda:99"], ["no device cuda:99"]),
    ],
    ids=lambda value: " ".join(value)[:60] or "nothing",
)
def test_bad_input_is_one_line(wdsr_edge: Command, photos: Path, arguments: list[str], words: list[str]) -> None:
    for folder in ("nothing", "pair/HR", "pair/LR_bicubic/X2"):
        Path(folder).mkdir(parents=True)
    image = Image.fromarray(samples.golden_frame())
    image.save("pair/HR/one.png")
    image.crop((0, 0, 20, 20)).save("pair/LR_bicubic/X2/onex2.png")
    Path("broken.png").write_bytes((photos / "golden.png").read_bytes()[:2000])
    save_checkpoint(trained_like(ModelConfig("wdsr-b", 1, 8, 2)), "net.safetensors")
    done = wdsr_edge("evaluate", *arguments)
    if "broken.png" in arguments[2:]:  # after the first set was done
        assert done.stderr.startswith("photos: 2 images")
        done = done._replace(stderr=done.stderr.partition("\n")[2])
    refused(done, *words)


def test_an_image_that_cannot_be_read_is_named_and_passed_over(wdsr_edge: Command, photos: Path) -> None:
    whole = wdsr_edge("evaluate", MODEL, photos, "--json")
    Path("photos/empty.png").touch()
    Path("photos/damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (photos / "good.bmp").symlink_to("golden.png")
    done = wdsr_edge("evaluate", MODEL, photos)
    assert done.returncode == 1
    assert list(rounded(done.stdout)) == ["golden", "good", "odd", "mean", "bicubic"]
    said = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "photos/damaged.jpg",
        "photos/empty.png",
        "photos",
        "2 images could not be read, and the means are without",
    ]
    assert all(line.endswith("passed over") for line in said[:2])
    (photos / "good.bmp").unlink()
    document = json.loads(wdsr_edge("evaluate", MODEL, photos, "--json").stdout)["photos"]
    assert len(document.pop("unreadable")) == 2
    assert document == json.loads(whole.stdout)["photos"]
    rows = wdsr_edge("evaluate", MODEL, photos, "--csv")
    assert (rows.returncode, len(rows.stdout.splitlines())) == (1, 4)


def test_a_set_without_an_image_that_can_be_read(wdsr_edge: Command) -> None:
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        (Path("photos") / name).touch()
    done = wdsr_edge("evaluate", MODEL, "photos")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "wdsr-edge: no image that can be read and is large enough in photos"


def test_degraded_pictures_stand_beside_bicubic_and_lanczos(wdsr_edge: Command, photos: Path) -> None:
    done = wdsr_edge("evaluate", MODEL, photos, "--degrade", "jpeg:40,area+noise:4")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["photos: 2 images, degraded in 2 ways"]
    title, header, *rows = done.stdout.splitlines()
    assert title.rstrip() == f"{MODEL} on photos, degraded"
    assert header.split() == ["LR", "PSNR", "Y", "bicubic", "Lanczos", "SSIM", "Y", "bicubic", "Lanczos", "lost"]
    with load(MODEL, precision="fp32") as resolver:
        expected = {
            way: compare({"model": resolver}, load_pairs([photos], 2), way, 2) for way in ("jpeg:40", "area+noise:4")
        }
    for row, (way, figures) in zip(rows, expected.items(), strict=True):
        cells = row.split()
        assert cells[0] == way
        assert [float(cell) for cell in cells[1:4]] == pytest.approx(
            [figures[what].mean.psnr_y for what in ("model", "bicubic", "Lanczos")], abs=0.006
        )
        assert cells[-1] == f"{len(figures['model'].lost)}/2"
    document = json.loads(wdsr_edge("evaluate", MODEL, photos, "--degrade", "jpeg:40", "--json").stdout)
    assert document["photos"]["jpeg:40"]["bicubic"]["mean"] == pytest.approx(
        asdict(expected["jpeg:40"]["bicubic"].mean) | {"name": "mean"}
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--degrade", "jpg:50"), "unknown step 'jpg'"),
        (("--degrade", "jpeg:50,"), "unknown step ''"),
        (("--degrade", "jpeg:50", "--csv"), "--degrade prints a table or --json, no --csv"),
    ],
)
def test_a_wrong_degradation_is_refused_before_anything_is_read(
    wdsr_edge: Command, options: tuple[str, ...], words: str
) -> None:
    refused(wdsr_edge("evaluate", MODEL, "no such folder", *options), words)
