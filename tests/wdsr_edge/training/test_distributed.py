"""Two processes of torchrun on a CPU are one process with the whole batch."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from wdsr_edge import InputError
from wdsr_edge.cli import main
from wdsr_edge.images.samples import PHOTOS
from wdsr_edge.models import load_checkpoint
from wdsr_edge.training import World, open_device

PHOTO = PHOTOS / "rocket.jpg"
BESIDE = """\
mkdir -p "$OUT/rank$RANK" && cd "$OUT/rank$RANK" && exec "$PYTHON" -m wdsr_edge "$@" $([ "$RANK" = 0 ] || echo $SECOND)
"""
"""Each process in a folder of its own, the second one with options of its own."""


def options(cache: Path, *more: str | Path) -> list[str]:
    common = ["--data", PHOTOS, "--validation", PHOTO, "--batch", "4", "--patch", "8", "--steps", "30", "--amp", "off"]
    return [*map(str, common), "--save-every", "10", "--cache", str(cache), *map(str, more)]


def alone(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["wdsr-edge", *arguments])
    with pytest.raises(SystemExit) as raised:
        main()
    assert not raised.value.code


def launch(folder: Path, *arguments: str, second: str = "", kill: int | None = None) -> tuple[int, list[str]]:
    """Exit code, and what our processes (not torchrun) said on stderr; ``kill`` ends one of them at a step's report."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", f"--master-port={port}"]
    command = [*torchrun, "--no-python", "--", "sh", "-c", BESIDE, "sh", *arguments]
    env = os.environ | {"OUT": str(folder), "PYTHON": sys.executable, "SECOND": second, "OMP_NUM_THREADS": "1"}
    said: list[str] = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process, all_ended(process):
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip("\n"))
            if kill is not None and line.startswith("step 10:"):
                os.kill(children(process.pid)[kill], signal.SIGKILL)
                kill = None
    return process.returncode, [line for line in said if not of_torchrun(line, said)]


@contextmanager
def all_ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """A test that fails or takes too long leaves no process behind."""
    try:
        yield
    except BaseException:
        for pid in (*children(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)
        raise


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(map(int, listed))


def of_torchrun(line: str, said: list[str]) -> bool:
    """Its report on a process that failed, which begins with a line of its log and goes on to the end."""
    first = next((i for i, other in enumerate(said) if "torch/distributed/elastic" in other), len(said))
    return said.index(line) >= first


def log(path: Path) -> list[dict[str, float]]:
    with open(path / "log.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def same_log(one: Path, two: Path, decibels: float = 1e-3) -> None:
    """Losses to 1e-5 of an image in [0, 1]."""
    ours, theirs = log(one), log(two)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [row["loss"] / 255 for row in ours] == pytest.approx([row["loss"] / 255 for row in theirs], abs=1e-5)
    assert [row["learning_rate"] for row in ours] == [row["learning_rate"] for row in theirs]
    assert ours[-1]["psnr_y"] == pytest.approx(theirs[-1]["psnr_y"], abs=decibels)


@pytest.mark.timeout(120)
def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "wdsr-b-1x8-x2", *options(tmp_path / "cache")]
    alone(monkeypatch, *arguments, "-o", str(tmp_path / "alone"))
    code, said = launch(tmp_path, *arguments, "-o", "run")
    assert code == 0, said
    same_log(tmp_path / "alone", tmp_path / "rank0" / "run")
    ours, theirs = (
        load_checkpoint(folder / "last.safetensors") for folder in (tmp_path / "alone", tmp_path / "rank0/run")
    )
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-4)
    assert not list((tmp_path / "rank1").iterdir())
    assert [line.partition(" ")[0] for line in said] == [
        "wdsr-b-1x8-x2,",
        "step",
        "step",
        "step",
        "run/last.safetensors",
    ]
    assert " in 2 processes, " in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("edsr-1x8-x3", ["--clip", "0.1"]),
        ("wdsr-a-1x8-x2", ["--ema", "0.9", "--loss", "charbonnier", "--norm", "none"]),
        ("wdsr-b-1x8-x2", ["--teacher", "wdsr-b-3x32-x2", "--schedule", "cosine", "--warmup", "5"]),
        ("wdsr-b-1x8-x2", ["--amp", "bfloat16"]),
        ("wdsr-b-1x32-x2", ["--quantize", "--start", "wdsr-b-1x32-x2"]),
        ("wdsr-b-1x8-x2", ["--amp", "float16", "--clip", "1", "--workers", "1"]),
    ],
)
def test_whatever_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, more: list[str]) -> None:
    arguments = ["train", name, *options(tmp_path / "cache", *more)]
    alone(monkeypatch, *arguments, "-o", str(tmp_path / "alone"))
    code, said = launch(tmp_path, *arguments, "-o", "run")
    assert code == 0, said
    assert len(said) == 5, said
    same_log(tmp_path / "alone", tmp_path / "rank0" / "run", decibels=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    out = str(tmp_path / "run")
    arguments = ["train", "wdsr-b-1x8-x2", *options(tmp_path / "cache", "--steps", "300", "--validate-every", "150")]
    code, said = launch(tmp_path, *arguments, "-o", out, kill=killed)
    assert code == 1
    assert "Traceback" not in "\n".join(said)
    assert len([line for line in said if not line.startswith("step ")]) <= 2, said
    saved = int(log(Path(out))[-1]["step"])
    assert saved >= 10
    (tmp_path / "run" / "state.pt").replace(tmp_path / "state.pt")
    code, said = launch(tmp_path, *arguments, "-o", str(tmp_path / "straight"))
    assert code == 0
    (tmp_path / "state.pt").replace(tmp_path / "run" / "state.pt")
    code, said = launch(tmp_path, *arguments, "-o", out)
    assert code == 0
    same_log(tmp_path / "run", tmp_path / "straight")
    ours, theirs = ((tmp_path / run / "last.safetensors").read_bytes() for run in ("run", "straight"))
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "words"),
    [
        (f"--data {PHOTO}", "differ in images"),
        ("--seed 1", "differ in images, options or state"),
        ("--steps 20", "differ in images, options or state"),
    ],
)
def test_processes_that_would_not_do_the_same_are_refused(tmp_path: Path, second: str, words: str) -> None:
    code, said = launch(tmp_path, "train", "wdsr-b-1x8-x2", *options(tmp_path / "cache"), "-o", "run", second=second)
    assert code == 1
    assert words in said[-1]
    assert "Traceback" not in "\n".join(said)
    assert not [path for path in (tmp_path / "rank0" / "run").iterdir() if path.name != ".lock"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [(["--batch", "3"], "batch must be a multiple of the 2 processes, got 3"), (["--data", "empty"], "empty/x.png")],
)
def test_bad_input_is_a_line_and_no_traceback(tmp_path: Path, more: list[str], words: str) -> None:
    for rank in ("rank0", "rank1"):
        (tmp_path / rank / "empty").mkdir(parents=True)
        (tmp_path / rank / "empty" / "x.png").touch()
    arguments = options(tmp_path / "cache")
    if "--data" in more:
        arguments = arguments[2:]
    code, said = launch(tmp_path, "train", "wdsr-b-1x8-x2", *arguments, *more, "-o", "run")
    assert code == 1
    assert words in "\n".join(said)
    assert "Traceback" not in "\n".join(said)
    assert len(said) <= 3, said
    assert not (tmp_path / "rank1" / "run").exists()


def test_a_world_of_one_needs_nobody() -> None:
    world = World()
    assert world.writes
    assert world.sum([1.5, 2], torch.device("cpu")) == [1.5, 2]
    world.wait()
    assert list(range(5))[world.share(5)] == [0, 1, 2, 3, 4]


def test_only_the_first_writes() -> None:
    assert [World(rank, 3).writes for rank in range(3)] == [True, False, False]


@pytest.mark.parametrize("name", ["", "tpu", "meta", "mps", "cpu:0", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="device must be auto, cpu, cuda or cuda:N"):
        open_device(name)


@pytest.mark.parametrize(
    "name", ["cuda:1", "cuda:127", "cuda:128", "cuda:255", "cuda:256", "cuda:999", "cuda:99999999999"]
)
def test_a_gpu_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps the number in a byte, and would take 256 for 0."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="cuda"):
        open_device(name)


def test_a_device_is_the_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, gpus: int, **environment: Any) -> str:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        for variable in ("LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.setenv(variable, str(environment[variable])) if variable in environment else None
            monkeypatch.delenv(variable, raising=False) if variable not in environment else None
        return str(open_device(name))

    assert found("auto", 0) == "cpu"
    assert found("auto", 2) == "cuda"
    assert found("cpu", 2) == "cpu"
    assert found("cuda:1", 2) == "cuda:1"
    assert found("auto", 2, LOCAL_RANK=1, WORLD_SIZE=2) == "cuda:1"
    assert found("cuda", 2, LOCAL_RANK=0, WORLD_SIZE=2) == "cuda:0"
    with pytest.raises(InputError, match="torch sees 2 GPUs"):
        found("auto", 2, LOCAL_RANK=2, WORLD_SIZE=3)
