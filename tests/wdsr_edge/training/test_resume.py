"""A run that was stopped, however and wherever, goes on as if it had never stopped: bit for bit, logs included."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.strategies import trained_like
from tests.wdsr_edge.cli.test_train import ended
from wdsr_edge import CheckpointError, InputError, _files
from wdsr_edge.cli import main
from wdsr_edge.config import ModelConfig
from wdsr_edge.data.pairs import Pair
from wdsr_edge.images.degradation import read_recipe
from wdsr_edge.images.samples import PHOTOS
from wdsr_edge.models import build, save_checkpoint
from wdsr_edge.training import Progress, Student, TrainConfig, train
from wdsr_edge.training.state import restore_state, save_state

CONFIG = ModelConfig("wdsr-b", 1, 8, 2)
RECIPE = TrainConfig(steps=6, batch=2, patch=8, amp="off", ema=0.5, validate_every=3, save_every=2)


class Killed(BaseException):
    """Stands for a process that ends at once."""


def killer(step: int) -> Any:
    def kill(done: int) -> None:
        if done == step:
            raise Killed

    return kill


def outcome(folder: Path) -> tuple[bytes, bytes, list[str], dict[str, bytes]]:
    """All that a run leaves, but for the time it took: last, best, log and pictures."""
    rows = [line.rpartition(",")[0] for line in (folder / "log.csv").read_text().splitlines()]
    pictures = {path.name: path.read_bytes() for path in sorted((folder / "samples").iterdir())}
    last, best = ((folder / f"{name}.safetensors").read_bytes() for name in ("last", "best"))
    return last, best, rows, pictures


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = events.Tags()
    scalars = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in tags["scalars"]}
    return scalars | {name: [(point.step, 0.0) for point in events.Images(name)] for name in tags["images"]}


@pytest.fixture(scope="module")
def straight(pairs: list[Pair], validation: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(CONFIG, RECIPE, pairs, validation, folder)
    return folder


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6])
def test_a_run_stopped_after_any_step_goes_on(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path, stop: int
) -> None:
    with pytest.raises(Killed):
        train(CONFIG, RECIPE, pairs, validation, tmp_path, on_step=killer(stop))
    steps: list[int] = []
    train(CONFIG, RECIPE, pairs, validation, tmp_path, on_step=steps.append)
    saved = max(step for step in (0, 2, 3, 4) if step < stop)
    assert steps == list(range(saved + 1, 7))
    assert outcome(tmp_path) == outcome(straight)


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ({"arch": "edsr"}, {}),
        pytest.param({"arch": "wdsr-a", "norm": "none"}, {"clip": 0.1}, marks=pytest.mark.slow),
        ({"norm": "batch"}, {"schedule": "cosine", "warmup": 2}),
        ({"expansion_conv": "group"}, {"amp": "bfloat16", "amp_share": 0.6}),
        ({}, {"amp": "float16", "clip": 0.5}),
        ({}, {"workers": 1}),
        ({}, {"reparameterize": True}),
        ({}, {"drawn": 0.5}),
        pytest.param({}, {"channels_last": False, "loss": "charbonnier"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_kind_of_run_goes_on(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], network: dict[str, Any], changes: dict[str, Any]
) -> None:
    recipe = replace(RECIPE, **changes)
    config = ModelConfig(**{"arch": "wdsr-b", "blocks": 1, "channels": 8, "scale": 2, **network})
    teacher, start = trained_like(replace(config, channels=12)), trained_like(config)
    train(config, recipe, pairs, validation, tmp_path / "straight", start=start, teacher=teacher)
    with pytest.raises(Killed):
        train(config, recipe, pairs, validation, tmp_path / "k", start=start, teacher=teacher, on_step=killer(4))
    train(config, recipe, pairs, validation, tmp_path / "k", start=start, teacher=teacher)
    assert outcome(tmp_path / "k") == outcome(tmp_path / "straight")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_degraded_run_goes_on(tmp_path: Path, pairs: list[Pair], validation: list[Pair], workers: int) -> None:
    recipe, camera = replace(RECIPE, drawn=0.3, workers=workers), read_recipe("camera")
    train(CONFIG, recipe, pairs, validation, tmp_path / "straight", degradations=camera)
    with pytest.raises(Killed):
        train(CONFIG, recipe, pairs, validation, tmp_path / "k", degradations=camera, on_step=killer(4))
    with pytest.raises(InputError, match="with other degradations"):
        train(CONFIG, recipe, pairs, validation, tmp_path / "k", degradations=read_recipe("scan"))
    train(CONFIG, recipe, pairs, validation, tmp_path / "k", degradations=camera)
    assert outcome(tmp_path / "k") == outcome(tmp_path / "straight")
    train(CONFIG, recipe, pairs, validation, tmp_path / "clean")
    assert outcome(tmp_path / "k") != outcome(tmp_path / "clean")


def test_a_gradient_scale_that_fell_stays_fallen(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    """A large ``std`` makes gradients that float16 cannot hold at the scale that a scaler begins with."""
    config, recipe = replace(CONFIG, std=100.0), replace(RECIPE, amp="float16", learning_rate=1e-6)
    train(config, recipe, pairs, validation, tmp_path / "straight")
    with pytest.raises(Killed):
        train(config, recipe, pairs, validation, tmp_path / "k", on_step=killer(4))
    assert torch.load(tmp_path / "k" / "state.pt", weights_only=True)["scaler"]["scale"] < 65536
    train(config, recipe, pairs, validation, tmp_path / "k")
    assert outcome(tmp_path / "k") == outcome(tmp_path / "straight")


@pytest.fixture(params=["before", pytest.param("after", marks=pytest.mark.slow)])
def deadly_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ends before or after the renaming of a file; the list holds how many may still happen."""
    left = [0]
    put = _files.put

    def deadly(fresh: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] == 0 and request.param == "before":
            raise Killed
        put(fresh, target)
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(_files, "put", deadly)
    return left


def test_a_run_stopped_between_any_two_of_its_files_goes_on(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path, deadly_rename: list[int]
) -> None:
    """A report writes a picture, the last model, the best one, a row, and last the state that makes them good."""
    for files in range(1, 100):
        folder = tmp_path / str(files)
        deadly_rename[0] = files
        try:
            train(CONFIG, RECIPE, pairs, validation, folder)
        except Killed:
            deadly_rename[0] = 0
            train(CONFIG, RECIPE, pairs, validation, folder)
            assert outcome(folder) == outcome(straight), f"killed at file {files}"
        else:
            break
    assert 10 < files < 20


def test_a_log_cut_anywhere_is_mended(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path
) -> None:
    with pytest.raises(Killed):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "k", on_step=killer(4))
    log = (tmp_path / "k" / "log.csv").read_text()
    full = (straight / "log.csv").read_text()
    unsaved = full[full.index("\n4,") + 1 :]
    for half in (*(unsaved[:cut] for cut in range(0, len(unsaved), 9)), "3"):  # a 30 that was cut
        folder = Path(shutil.copytree(tmp_path / "k", tmp_path / f"{len(half)}{half[:1]}"))
        (folder / "log.csv").write_text(log + half)
        train(CONFIG, RECIPE, pairs, validation, folder)
        assert outcome(folder) == outcome(straight)


@pytest.mark.parametrize("foreign", [b"", b"\xff\xfe", b"a,b\n1,2\n", b"step\n\xc2\xb2\n", None])
def test_a_log_that_is_none_does_no_harm(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path, foreign: bytes | None
) -> None:
    if foreign is not None:
        (tmp_path / "log.csv").write_bytes(foreign)
    train(CONFIG, RECIPE, pairs, validation, tmp_path)
    assert outcome(tmp_path) == outcome(straight)


@pytest.mark.parametrize("stop", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_tensorboard_forgets_what_was_not_saved(
    tmp_path: Path,
    pairs: list[Pair],
    validation: list[Pair],
    straight: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
) -> None:
    """The process ends when the events of a report are on disk, and its state is not."""

    def kill(path: Path, identity: Any, parts: Any, progress: Progress) -> None:
        if progress.step == stop:
            raise Killed
        save_state(path, identity, parts, progress)

    monkeypatch.setattr(sys.modules["wdsr_edge.training.train"], "save_state", kill)
    with pytest.raises(Killed):
        train(CONFIG, RECIPE, pairs, validation, tmp_path)
    assert curves(tmp_path)["loss"][-1][0] == stop
    monkeypatch.undo()
    time.sleep(1.1)  # TensorBoard puts event files in order by the second
    train(CONFIG, RECIPE, pairs, validation, tmp_path)
    assert curves(tmp_path) == curves(straight)


def test_a_finished_run_says_where_it_stands(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path
) -> None:
    folder = Path(shutil.copytree(straight, tmp_path / "run"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    reports: list[Progress] = []
    model = train(CONFIG, RECIPE, pairs, validation, folder, on_report=reports.append)
    assert [progress.step for progress in reports] == [6]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not model.training


def test_what_changes_no_weight_may_change_on_the_way(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path
) -> None:
    with pytest.raises(Killed):
        train(CONFIG, RECIPE, pairs, validation, tmp_path, on_step=killer(4))
    train(CONFIG, replace(RECIPE, save_every=1, validate_every=5, workers=1), pairs, validation, tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == (straight / "last.safetensors").read_bytes()


@pytest.mark.parametrize("stop", [None, 7, 8])
def test_a_finished_run_goes_on_as_if_it_had_been_longer(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path, stop: int | None
) -> None:
    """To the bit, whatever stops it on the way; it had validated at its end, as the longer run does there."""
    longer = replace(RECIPE, steps=9)
    train(CONFIG, longer, pairs, validation, tmp_path / "straight")
    shutil.copytree(straight, tmp_path / "run")
    if stop is not None:
        with pytest.raises(Killed):
            train(CONFIG, longer, pairs, validation, tmp_path / "run", on_step=killer(stop))
    steps: list[int] = []
    train(CONFIG, longer, pairs, validation, tmp_path / "run", on_step=steps.append)
    assert steps == [7, 8, 9]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "straight")
    with pytest.raises(InputError, match="not steps 6, but 9"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "run")


def test_a_longer_cosine_takes_up_the_longer_curve(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    short, longer = (replace(RECIPE, schedule="cosine", steps=steps) for steps in (6, 12))
    train(CONFIG, short, pairs, validation, tmp_path)
    rates: list[float] = []
    train(CONFIG, longer, pairs, validation, tmp_path, on_report=lambda at: rates.append(at.learning_rate))
    peak = longer.peak_rate(CONFIG)
    assert rates[0] == peak * short.rate(5)
    assert rates[1:] == [peak * longer.rate(step) for step in (7, 8, 9, 11)]


def test_a_run_that_is_not_finished_keeps_its_length(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    with pytest.raises(Killed):
        train(CONFIG, RECIPE, pairs, validation, tmp_path, on_step=killer(5))
    with pytest.raises(InputError, match="not steps 9, but 6"):
        train(CONFIG, replace(RECIPE, steps=9), pairs, validation, tmp_path)


OTHERS: dict[str, Any] = {
    "steps": 5,
    "batch": 4,
    "patch": 9,
    "learning_rate": 1e-3,
    "beta2": 0.99,
    "schedule": "cosine",
    "halve_every": 3,
    "warmup": 1,
    "loss": "l2",
    "ema": 0.6,
    "clip": 1.0,
    "distillation": 0.4,
    "drawn": 0.2,
    "reparameterize": True,
    "quantize": True,
    "amp": "bfloat16",
    "amp_share": 0.5,
    "channels_last": False,
    "seed": 1,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainConfig)])
def test_what_changes_weights_may_not(pairs: list[Pair], validation: list[Pair], straight: Path, name: str) -> None:
    if name in ("save_every", "validate_every", "workers", "compile"):
        return
    recipe = replace(RECIPE, **{name: OTHERS[name]})
    student = Student(build(CONFIG), save_checkpoint) if name == "quantize" else None
    with pytest.raises(InputError, match=rf"state\.pt belongs to another run.*{name}.*output folder"):
        train(CONFIG, recipe, pairs, validation, straight, student=student)


def test_another_network_start_teacher_or_set_of_images_is_another_run(
    pairs: list[Pair], validation: list[Pair], straight: Path
) -> None:
    before = outcome(straight)
    with pytest.raises(InputError, match=r"another run.*model"):
        train(replace(CONFIG, channels=12), RECIPE, pairs, validation, straight)
    with pytest.raises(InputError, match=r"another run, with another start"):
        train(CONFIG, RECIPE, pairs, validation, straight, start=build(CONFIG))
    with pytest.raises(InputError, match=r"another run.*teacher"):
        train(CONFIG, RECIPE, pairs, validation, straight, teacher=build(CONFIG))
    with pytest.raises(InputError, match=r"another run.*images"):
        train(CONFIG, RECIPE, pairs[1:], validation, straight)
    with pytest.raises(InputError, match=r"another run.*validation images"):
        train(CONFIG, RECIPE, pairs, pairs, straight)
    assert outcome(straight) == before


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "pickle", "foreign", "folder"])
def test_damaged_state_is_named(
    tmp_path: Path,
    pairs: list[Pair],
    validation: list[Pair],
    straight: Path,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(straight, "run"))
    state = folder / "state.pt"
    data = state.read_bytes()
    state.unlink()
    if damage == "folder":
        state.mkdir()
    elif damage == "foreign":
        torch.save({"weights": torch.ones(3)}, state)
    else:
        broken = {"empty": b"", "truncated": data[:-999], "garbage": b"x" * 500, "pickle": pickle.dumps(Bomb())}
        state.write_bytes(broken[damage])
    before = outcome(folder)
    with pytest.raises(CheckpointError, match=r"run/state\.pt (is damaged|cannot be read) .*remove it") as raised:
        train(CONFIG, RECIPE, pairs, validation, folder)
    assert "\n" not in str(raised.value)
    assert outcome(folder) == before
    assert not Path("exploded").exists()


@given(data=st.data())
def test_a_state_cut_anywhere_is_damaged(
    straight: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = (straight / "state.pt").read_bytes()
    path = tmp_path_factory.mktemp("state") / "state.pt"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError):
        restore_state(path, {}, {})


@given(data=st.data())
def test_a_state_with_a_wrong_byte_gives_no_other_error_and_no_other_weights(
    straight: Path, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = torch.load(straight / "state.pt", weights_only=True)
    known, model = state["identity"], build(CONFIG)
    broken = bytearray((straight / "state.pt").read_bytes())
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("state") / "state.pt"
    path.write_bytes(broken)
    with suppress(CheckpointError, InputError):
        restore_state(path, known, {"model": model})
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state["model"][name])


def test_what_a_killed_run_left_half_written_is_removed(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], straight: Path
) -> None:
    """And nothing else."""
    folder = Path(shutil.copytree(straight, tmp_path / "run"))
    (picture,) = (folder / "samples").iterdir()
    written = [folder / name for name in ("state.pt", "log.csv", "last.safetensors", "best.safetensors")]
    for path in (*written, picture):
        scratch = path.parent / f".{path.name}.x1y2z3"
        scratch.mkdir()
        (scratch / path.name).write_bytes(b"half")
    (folder / ".git").mkdir()
    (folder / ".notes.txt").touch()
    train(CONFIG, RECIPE, pairs, validation, folder)
    assert {path.name for path in folder.rglob(".*")} - {".lock"} == {".git", ".notes.txt"}
    assert outcome(folder) == outcome(straight)


def test_one_folder_takes_one_run_at_a_time(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    def begin_another(step: int) -> None:
        with pytest.raises(InputError, match=f"another run trains into {tmp_path}"):
            train(CONFIG, RECIPE, pairs, validation, tmp_path)

    train(CONFIG, RECIPE, pairs, validation, tmp_path, on_step=begin_another)


class Run:
    """A run of the real command in a process of its own."""

    def __init__(self, folder: Path, cache: Path, steps: int, save_every: int) -> None:
        self.folder = folder
        options = {
            "--data": PHOTOS,
            "--validation": PHOTOS / "rocket.jpg",
            "--cache": cache,
            "--output": folder,
            "--steps": steps,
            "--save-every": save_every,
            "--validate-every": steps // 2,
            "--ema": 0.9,
            "--batch": 2,
            "--patch": 8,
            "--amp": "off",
        }
        pairs = [(name, str(value)) for name, value in options.items()]
        self.arguments = ["train", "wdsr-b-1x8-x2", *(part for pair in pairs for part in pair)]

    def finish(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In this process."""
        monkeypatch.setattr(sys, "argv", ["wdsr-edge", *self.arguments])
        with pytest.raises(SystemExit) as raised:
            main()
        assert not raised.value.code

    def kill(self, at_step: int, delay: float = 0) -> list[int]:
        """SIGKILL ``delay`` seconds after the report of ``at_step``; the steps that were reported before."""
        command = [sys.executable, "-m", "wdsr_edge", *self.arguments]
        reported: list[int] = []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, ended(process):
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("step "):
                    reported.append(int(line.split()[1].rstrip(":")))
                    if reported[-1] >= at_step:
                        time.sleep(delay)
                        process.kill()
                        break
            rest = process.stderr.read()
            reported += [int(line.split()[1].rstrip(":")) for line in rest.splitlines() if line.startswith("step ")]
        assert process.returncode in (-9, 0), rest
        return reported


def test_60_steps_are_30_and_a_kill_and_30(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = (Run(tmp_path / name, tmp_path / "cache", 60, 5) for name in ("whole", "killed"))
    whole.finish(monkeypatch)
    assert 30 <= killed.kill(30)[-1] < 60
    killed.finish(monkeypatch)
    assert outcome(killed.folder) == outcome(whole.folder)
    assert not [path for path in killed.folder.rglob(".*") if path.is_dir()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_number_of_kills_loses_at_most_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, killed = (Run(tmp_path / name, tmp_path / "cache", 400, 3) for name in ("whole", "killed"))
    whole.finish(monkeypatch)
    chance = random.Random(0)
    reached, kills = 0, 0
    while reached < 400:
        reported = killed.kill(reached + chance.randrange(1, 60), delay=chance.random() / 50)
        assert not reached or reached <= reported[0] <= reached + 3  # killed perhaps after a save, before its report
        reached, kills = reported[-1], kills + 1
    assert kills > 5
    killed.finish(monkeypatch)
    assert outcome(killed.folder) == outcome(whole.folder)
    assert not [path for path in killed.folder.rglob(".*") if path.is_dir()]
