"""``wdsr-edge train``: its options from three places, what it makes, and one line for every mistake."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.command_line import refused
from tests.strategies import trained_like
from tests.wdsr_edge.cli.conftest import Command
from wdsr_edge import training
from wdsr_edge.config import ModelConfig
from wdsr_edge.data import pairs as pairs_module
from wdsr_edge.images import samples
from wdsr_edge.images.degradation import read_recipe
from wdsr_edge.models import load_checkpoint, save_checkpoint
from wdsr_edge.training import TrainConfig

PHOTO = samples.PHOTOS / "rocket.jpg"
NAME = "wdsr-b-1x8-x2"
SMALL = ["--batch", "2", "--patch", "8", "--steps", "4", "--amp", "off"]


@dataclasses.dataclass
class Call:
    """What ``training.train`` was called with."""

    config: ModelConfig
    recipe: TrainConfig
    pairs: Any
    validation: Any
    output: Path
    options: dict[str, Any]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Instead of training, its calls are put here."""
    found: list[Call] = []

    def train(config: ModelConfig, recipe: TrainConfig, pairs: Any, validation: Any, output: Path, **more: Any) -> None:
        found.append(Call(config, recipe, pairs, validation, output, more))

    monkeypatch.setattr(training, "train", train)
    return found


def test_a_run_makes_what_it_says(wdsr_edge: Command) -> None:
    done = wdsr_edge("train", NAME, "--data", samples.PHOTOS, "-o", "run", *SMALL, "--save-every", "3")
    assert (done.returncode, done.stdout) == (0, "")
    banner, first, second, last = done.stderr.splitlines()
    assert banner == f"{NAME}, norm weight: 3 images, 4 steps on cpu, validated on 3 images, into run"
    assert first.startswith("step 3: loss ")
    assert second.startswith("step 4: loss ")
    assert "PSNR Y " in second
    assert last.startswith("run/last.safetensors holds the model")
    made = {path.name for path in Path("run").iterdir() if not path.name.startswith(".")}
    assert made == {"last.safetensors", "best.safetensors", "state.pt", "log.csv", "tensorboard", "samples"}
    assert load_checkpoint("run/best.safetensors").config.name == NAME
    assert {path.name for path in Path.cwd().iterdir()} == {"run"}


def test_a_trained_network_learns_to_be_int8_and_is_deployed(wdsr_edge: Command) -> None:
    save_checkpoint(trained_like(ModelConfig.from_name(NAME)), "net.safetensors")
    options = ["--data", PHOTO, "--validation", PHOTO, "--start", "net.safetensors", "--quantize", "-o", "run", *SMALL]
    done = wdsr_edge("train", NAME, *options)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    deployed = ["deploy", "run/last.safetensors", "-o", "bundle", "--size", "8x8", "--seconds", "0"]
    done = wdsr_edge(*deployed, "--json")
    assert done.returncode == 0, done.stderr
    parity = {entry["graph"]: entry for entry in json.loads(done.stdout)["parity"]}
    assert parity.keys() == {"fp32", "fp16", "int8", "int8-cpu"}
    assert 30 < parity["int8"]["psnr_db"] < parity["fp16"]["psnr_db"]
    assert wdsr_edge("verify", "bundle").returncode == 0
    refused(wdsr_edge(*deployed, "--calibration", PHOTO), "was trained with --quantize", "leave out --calibration")


def test_json_is_the_log(wdsr_edge: Command) -> None:
    done = wdsr_edge(
        "train", NAME, "--data", PHOTO, "-o", "run", "--validation", PHOTO, *SMALL, "--validate-every", "2", "--json"
    )
    document = json.loads(done.stdout)
    with open("run/log.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [entry["step"] for entry in document] == [2, 4]
    assert document == rows


def test_the_same_command_goes_on_and_another_is_refused(wdsr_edge: Command) -> None:
    common = ["train", NAME, "--data", PHOTO, "--validation", PHOTO, "-o", "run", *SMALL]
    assert wdsr_edge(*common).returncode == 0
    before = Path("run/last.safetensors").read_bytes()
    again = wdsr_edge(*common)
    assert again.returncode == 0
    assert again.stderr.count("\nstep 4: ") == 1
    other = wdsr_edge(*common, "--seed", "6")
    assert other.returncode == 2
    assert other.stderr.splitlines()[-1].startswith("wdsr-edge: run/state.pt belongs to another run")
    assert Path("run/last.safetensors").read_bytes() == before
    longer = wdsr_edge(*common, "--steps", "6")
    assert longer.returncode == 0
    assert "run/state.pt is of a finished run: it goes on from step 4 to 6\n" in longer.stderr
    assert "\nstep 6: " in longer.stderr


def test_defaults_then_file_then_flags(wdsr_edge: Command, calls: list[Call]) -> None:
    Path("run.toml").write_text(
        f'model = "{NAME}"\ndata = "{PHOTO}"\noutput = "from-file"\nsteps = 7\nema = 0.5\nbatch = 3\npatch = 8\n'
        '[network]\nnorm = "batch"\nstd = 0.25\n'
    )
    assert wdsr_edge("train", "--config", "run.toml").returncode == 0
    assert (
        wdsr_edge("train", "--config", "run.toml", "--steps", "9", "--norm", "none", "-o", "from-flag").returncode == 0
    )
    from_file, from_flags = calls
    assert from_file.recipe == TrainConfig(steps=7, ema=0.5, batch=3, patch=8)
    assert from_flags.recipe == TrainConfig(steps=9, ema=0.5, batch=3, patch=8)
    assert from_file.config == ModelConfig("wdsr-b", 1, 8, 2, norm="batch", std=0.25)
    assert from_flags.config == ModelConfig("wdsr-b", 1, 8, 2, norm="none", std=0.25)
    assert (str(from_file.output), str(from_flags.output)) == ("from-file", "from-flag")


FLAGS: dict[str, Any] = {
    "steps": 11,
    "batch": 3,
    "patch": 12,
    "learning_rate": 0.25,
    "beta2": 0.75,
    "schedule": "cosine",
    "halve_every": 13,
    "warmup": 5,
    "loss": "charbonnier",
    "ema": 0.125,
    "clip": 2.5,
    "distillation": 0.75,
    "drawn": 0.25,
    "amp": "off",
    "quantize": True,
    "amp_share": 0.5,
    "channels_last": False,
    "compile": True,
    "workers": 1,
    "seed": 17,
    "save_every": 19,
    "validate_every": 23,
}


def flags(values: dict[str, Any]) -> list[str]:
    spelt = {name.replace("_", "-"): value for name, value in values.items()}
    switches = [f"--{name}" if value else f"--no-{name}" for name, value in spelt.items() if isinstance(value, bool)]
    return [*switches, *(f"--{name}={value}" for name, value in spelt.items() if not isinstance(value, bool))]


def test_every_option_of_the_recipe_is_a_flag_that_beats_the_file(wdsr_edge: Command, calls: list[Call]) -> None:
    usual = dataclasses.asdict(TrainConfig(learning_rate=0.5, workers=2))
    del usual["reparameterize"]  # which quantize excludes
    assert [name for name, value in usual.items() if FLAGS[name] == value] == []
    save_checkpoint(trained_like(ModelConfig.from_name(NAME)), "net.safetensors")  # which quantize asks for
    common = ["train", NAME, "--data", PHOTO, "-o", "run", "--start", "net.safetensors"]
    assert wdsr_edge(*common, *flags(FLAGS)).returncode == 0
    Path("run.toml").write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in usual.items()))
    assert wdsr_edge(*common, "--config", "run.toml", *flags(FLAGS)).returncode == 0
    assert calls[0].recipe == calls[1].recipe == TrainConfig(**FLAGS)


@pytest.mark.parametrize("name", ["channels_last", "compile", "reparameterize"])
def test_a_switch_goes_both_ways(wdsr_edge: Command, calls: list[Call], name: str) -> None:
    for value in (True, False):
        assert wdsr_edge("train", NAME, "--data", PHOTO, "-o", "run", *flags({name: value})).returncode == 0
    assert [getattr(call.recipe, name) for call in calls] == [True, False]


def test_every_place_may_stand_in_the_file(wdsr_edge: Command, calls: list[Call]) -> None:
    save_checkpoint(trained_like(ModelConfig.from_name(NAME)), "net.safetensors")
    Path("run.toml").write_text(
        f'model = "{NAME}"\ndata = ["{PHOTO}", "{samples.PHOTOS}"]\nvalidation = "{PHOTO}"\noutput = "run"\n'
        'start = "net.safetensors"\nteacher = "wdsr-b-3x32-x2"\ndegrade = "scan"\n'
    )
    assert wdsr_edge("train", "--config", "run.toml").returncode == 0
    (call,) = calls
    assert (len(call.pairs), len(call.validation)) == (4, 1)
    assert call.options["start"].config.name == NAME
    assert call.options["teacher"].config.name == "wdsr-b-3x32-x2"
    assert call.options["degradations"] == read_recipe("scan")
    assert wdsr_edge("train", "--config", "run.toml", "--degrade", "camera").returncode == 0
    assert calls[1].options["degradations"] == read_recipe("camera")


def test_a_start_says_what_the_name_does_not(wdsr_edge: Command, calls: list[Call]) -> None:
    config = ModelConfig("wdsr-b", 1, 8, 2, expansion=3, std=0.25)
    save_checkpoint(trained_like(config), "net.safetensors")
    assert (
        wdsr_edge("train", "wdsr-b-1x8-x3", "--data", PHOTO, "-o", "run", "--start", "net.safetensors").returncode == 0
    )
    assert calls[0].config == dataclasses.replace(config, scale=3)


def test_fine_tuning_from_another_scale_with_a_teacher(wdsr_edge: Command) -> None:
    common = ["--data", PHOTO, "--validation", PHOTO, *SMALL]
    assert wdsr_edge("train", NAME, *common, "-o", "x2").returncode == 0
    save_checkpoint(trained_like(ModelConfig("wdsr-a", 1, 12, 4)), "teacher.safetensors")
    more = ["--start", "x2/last.safetensors", "--teacher", "teacher.safetensors", "--norm", "none"]
    done = wdsr_edge("train", "wdsr-b-1x8-x4", *common, "-o", "x4", *more)
    assert done.returncode == 0, done
    assert load_checkpoint("x4/last.safetensors").config == ModelConfig("wdsr-b", 1, 8, 4, norm="none")


def test_div2k_brings_its_own_validation(wdsr_edge: Command, calls: list[Call]) -> None:
    for split, count in (("train", 3), ("valid", 2)):
        folder = Path(f"DIV2K/DIV2K_{split}_HR")
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(samples.golden_frame()).save(folder / f"{split}{i}.png")
    common = ["train", NAME, "-o", "run", "--patch", "8"]
    assert wdsr_edge(*common, "--data", "DIV2K").returncode == 0
    assert wdsr_edge(*common, "--data", "DIV2K/DIV2K_train_HR").returncode == 0
    assert wdsr_edge(*common, "--data", "DIV2K", "--validation", "DIV2K/DIV2K_train_HR").returncode == 0
    names = [([pair.name for pair in call.pairs], [pair.name for pair in call.validation]) for call in calls]
    train, valid, photos = ["train0", "train1", "train2"], ["valid0", "valid1"], ["chelsea", "coffee", "rocket"]
    assert names == [(train, valid), (train, photos), (train, train)]


def test_a_set_is_found_by_its_name(wdsr_edge: Command, calls: list[Call], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("T91", "eval/Set5"):
        Path("sets", name).mkdir(parents=True)
        Image.fromarray(samples.golden_frame()).save(Path("sets", name, "image.png"))
    monkeypatch.setenv("WDSR_EDGE_DATA", "sets")
    assert (
        wdsr_edge("train", NAME, "--data", "t91", "--validation", "set5", "-o", "run", "--patch", "8").returncode == 0
    )
    assert (len(calls[0].pairs), len(calls[0].validation)) == (1, 1)
    refused(wdsr_edge("train", NAME, "--data", "T92", "-o", "run"), "T92", "T91, eval")


def test_bad_images_are_named_counted_and_left_out(wdsr_edge: Command) -> None:
    Path("data").mkdir()
    Image.fromarray(samples.golden_frame()).save("data/good.png")
    Image.fromarray(samples.golden_frame()[:9, :9]).save("data/tiny.png")
    Path("data/empty.png").touch()
    Path("data/[red]\n.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for validation in (PHOTO, Path("data")):
        done = wdsr_edge(
            "train", NAME, "--data", "data", "--validation", validation, "-o", f"run-{validation.stem}", *SMALL
        )
        assert done.returncode == 0
        lines = done.stderr.splitlines()
        skipped = [line.split(" is ")[0].split(": cannot")[0] for line in lines if line.startswith("skipped: ")]
        assert sorted(set(skipped)) == [
            "skipped: data/[red]\\n.png",
            "skipped: data/empty.png:",
            "skipped: data/tiny.png",
        ]
        assert f"{len(skipped)} images skipped" in lines
        assert any(": 1 image, 4 steps on cpu, validated on 1 image" in line for line in lines)


def test_a_second_run_decodes_no_image(wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ["train", NAME, "--data", samples.PHOTOS, "--validation", PHOTO, *SMALL]
    assert wdsr_edge(*common, "-o", "first").returncode == 0
    monkeypatch.setattr(pairs_module, "read_rgb", None)
    assert wdsr_edge(*common, "-o", "second").returncode == 0
    assert Path("first/last.safetensors").read_bytes() == Path("second/last.safetensors").read_bytes()
    with pytest.raises(TypeError):
        wdsr_edge(*common, "-o", "third", "--cache", "another")


def test_a_run_that_diverges_is_one_line(wdsr_edge: Command) -> None:
    Path("run.toml").write_text("[network]\nstd = 0.001\nres_scale = 1000.0\n")
    common = ["--data", PHOTO, "--validation", PHOTO, "-o", "run", *SMALL]
    done = wdsr_edge("train", "wdsr-b-40x8-x2", "--norm", "none", "--config", "run.toml", *common)
    assert done.returncode == 2
    assert done.stderr.splitlines()[1:] == [
        "wdsr-edge: the loss is not finite at step 0: train again with a lower learning rate, into another folder"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["NAME", "--data", "--output"]),
        ([NAME, "-o", "run"], ["--data"]),
        (["wdsr-c-1x8-x2"], ["--data"]),
        (["wdsr-c-1x8-x2", "--data", "good.png", "-o", "run"], ["wdsr-c-1x8-x2", "ARCH-BLOCKSxCHANNELS-xSCALE"]),
        ([NAME, "--data", "missing", "-o", "run"], ["missing", "WDSR_EDGE_DATA"]),
        ([NAME, "--data", "good.png", "--validation", "missing/x", "-o", "run"], ["missing/x", "no such file"]),
        ([NAME, "--data", "nothing", "-o", "run"], ["nothing", "no images"]),
        ([NAME, "--data", "good.png", "-o", "good.png"], ["good.png", "a file, not a folder"]),
        ([NAME, "--data", "good.png", "-o", "good.png/run"], ["good.png/run", "a file, not a folder"]),
        ([NAME, "--data", "good.png", "-o", "run", "--cache", "good.png"], ["good.png", "a file, not a folder"]),
        ([NAME, "--data", "good.png", "-o", "run", "--degrade", "phone"], ["no recipe 'phone'", "camera, scan"]),
        ([NAME, "--data", "good.png", "-o", "run", "--drawn", "2"], ["drawn must be from 0 to 1"]),
        ([NAME, "--data", "good.png", "-o", "run", "--steps", "0"], ["steps must be from 1"]),
        ([NAME, "--data", "good.png", "-o", "run", "--steps", "1" + "0" * 400], ["steps must be"]),
        ([NAME, "--data", "good.png", "-o", "run", "--steps", "many"], ["--steps", "integer", "--help"]),
        ([NAME, "--data", "good.png", "-o", "run", "--ema", "nan"], ["ema must be from 0"]),
        ([NAME, "--data", "good.png", "-o", "run", "--loss", "l3"], ["loss must be one of l1, l2, charbonnier"]),
        ([NAME, "--data", "good.png", "-o", "run", "--norm", "group"], ["norm must be one of", "group"]),
        ([NAME, "--data", "good.png", "-o", "run", "--device", "tpu"], ["device must be auto, cpu, cuda", "tpu"]),
        ([NAME, "--data", "good.png", "-o", "run", "--device", "meta"], ["device must be", "meta"]),
        ([NAME, "--data", "good.png", "-o", "run", "--device", "cpu:1"], ["device must be", "cpu:1"]),
        ([NAME, "--data", "good.png", "-o", "run", "--device", "cuda:999"], ["no device cuda:999", "GPUs"]),
        ([NAME, "--data", "good.png", "-o", "run", "--start", "none.safetensors"], ["none.safetensors", "no such"]),
        ([NAME, "--data", "good.png", "-o", "run", "--start", "good.png"], ["good.png", "safetensors"]),
        ([NAME, "--data", "good.png", "-o", "run", "--start", "wdsr-b-3x32-x2"], ["cannot start from", "blocks"]),
        ([NAME, "--data", "good.png", "-o", "run", "--quantize"], ["quantize needs --start"]),
        (
            ["wdsr-b-3x32-x3", "--data", "good.png", "-o", "run", "--quantize", "--start", "wdsr-b-3x32-x2"],
            ["quantize needs --start", "of the same scale"],
        ),
        ([NAME, "--data", "good.png", "-o", "run", "--quantize", "--amp", "float16"], ["amp must be off"]),
        ([NAME, "--data", "good.png", "-o", "run", "--teacher", "nobody"], ["nobody", "wdsr-b-3x32-x2"]),
        (
            ["wdsr-b-1x8-x3", "--data", "good.png", "-o", "run", "--teacher", "wdsr-b-3x32-x2"],
            ["enlarges 2 times, not 3"],
        ),
        (["--config", "missing.toml"], ["missing.toml"]),
        (["--config", "nothing"], ["nothing"]),
        (["--config", "good.png"], ["good.png", "is not valid TOML"]),
        (["--config", "typo.toml"], ["typo.toml", "stepps", "did you mean steps"]),
        (["--config", "type.toml"], ["steps must be of type int, got '4'"]),
        (["--config", "nul.toml", NAME, "-o", "run"], ["nul"]),
        (["--config", "nul-output.toml", NAME, "--data", "good.png"], ["nul"]),
    ],
    ids=lambda value: " ".join(value)[:70] or "nothing",
)
def test_bad_input_is_one_line_and_leaves_nothing(wdsr_edge: Command, arguments: list[str], words: list[str]) -> None:
    Image.fromarray(samples.golden_frame()).save("good.png")
    Path("nothing").mkdir()
    for name, text in {
        "typo": "stepps = 4",
        "type": 'steps = "4"',
        "nul": 'data = "nul\\u0000"',
        "nul-output": 'output = "nul\\u0000"',
    }.items():
        Path(f"{name}.toml").write_text(text)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    refused(wdsr_edge("train", *arguments, "--patch", "8"), *words)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert not Path("run").exists() or not list(Path("run").iterdir())


def test_bad_input_shows_before_an_image_is_decoded(wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DIV2K that takes minutes."""
    monkeypatch.setattr(pairs_module, "read_rgb", None)
    Path("file").touch()
    common = ["train", NAME, "--data", PHOTO]
    refused(wdsr_edge(*common, "-o", "file"), "file")
    refused(wdsr_edge(*common, "-o", "run", "--start", "wdsr-b-3x32-x2"), "blocks")
    refused(wdsr_edge(*common, "-o", "run", "--validation", "missing"), "missing")
    refused(wdsr_edge("train", "wdsr-b-1x8-x3", "--data", PHOTO, "-o", "run", "--teacher", "wdsr-b-3x32-x2"), "not 3")


def test_a_folder_of_nothing_usable_names_every_file(wdsr_edge: Command) -> None:
    Path("data").mkdir()
    Path("data/empty.png").touch()
    done = wdsr_edge("train", NAME, "--data", "data", "-o", "run")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["skipped: data/empty.png: is empty", "wdsr-edge: no usable image in data"]


def test_a_world_that_nobody_joins_is_refused(wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(wdsr_edge("train", NAME, "--data", PHOTO, "-o", "run"), "2 processes", "torchrun")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["x", "-1", "1.5", "1e3", "9" * 50, "\u0663"])
def test_a_world_that_is_no_number(wdsr_edge: Command, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    refused(wdsr_edge("train", NAME, "--data", PHOTO, "-o", "run"), f"{name} in the environment must be a whole number")


def test_a_world_of_nothing_and_a_rank_outside_of_it(wdsr_edge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "0")
    refused(wdsr_edge("train", NAME, "--data", PHOTO, "-o", "run"), "WORLD_SIZE", "from 1 up")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    done = wdsr_edge("train", NAME, "--data", PHOTO, "-o", "run")
    assert done.returncode == 2
    assert "RANK is 2, which is not below WORLD_SIZE, 2" in done.stderr


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """A test that fails or takes too long leaves no process behind."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_run_leaves_nothing_half_written(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    run = tmp_path / "run"
    common = ["--data", PHOTO, "--validation", PHOTO, "-o", run, "--cache", tmp_path / "cache"]
    arguments = ["train", NAME, *map(str, common), *SMALL[:4], "--steps", "100000", "--validate-every", "3"]
    command = [sys.executable, "-m", "wdsr_edge", *arguments]
    # What a shell starts in the background ignores SIGINT, and so does all that it starts.
    restored = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=restored) as process, ended(process):
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 6"):
                break
        process.send_signal(sent)
        rest = process.stderr.read()
    assert process.returncode == code, rest
    assert "Traceback" not in rest
    assert ("interrupted" in rest) == (sent == signal.SIGINT)
    made = {path.name for path in run.iterdir() if path.name != ".lock"}
    assert made == {"state.pt", "last.safetensors", "best.safetensors", "log.csv", "tensorboard", "samples"}, rest
    assert [path.name for path in (run / "samples").iterdir()] == ["1-rocket.png"]
    assert load_checkpoint(run / "last.safetensors").config.name == NAME
