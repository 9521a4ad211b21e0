"""The training loop on a tiny network: it learns, it resumes as if it had never stopped, and it fails cleanly."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wdsr_edge import CheckpointError, InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.evaluation import Pair, bicubic, evaluate, load_pairs, mean_score
from wdsr_edge.models import load_checkpoint
from wdsr_edge.samples import PHOTOS, golden_frame
from wdsr_edge.training import Progress, TrainConfig, train
from wdsr_edge.training.data import random_patches

CONFIG = ModelConfig("wdsr-b", 1, 8, 2)
RECIPE = TrainConfig(steps=6, batch=2, patch=8, warmup=2, validate_every=3)


class Killed(Exception):
    """Stands for a process that ends in the middle of a run."""


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return load_pairs([PHOTOS], 2)


@pytest.fixture(scope="module")
def validation() -> list[Pair]:
    hr = golden_frame()
    return [Pair("golden", bicubic(hr, 1 / 2), hr)]


def test_resumed_run_is_the_uninterrupted_one(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    def kill(step: int) -> None:
        if step == 5:
            raise Killed

    straight = train(CONFIG, RECIPE, pairs, validation, tmp_path / "straight")
    with pytest.raises(Killed):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "killed", on_step=kill)
    steps: list[int] = []
    resumed = train(CONFIG, RECIPE, pairs, validation, tmp_path / "killed", on_step=steps.append)
    assert steps == [4, 5, 6]
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    saved = load_checkpoint(tmp_path / "killed" / "last.safetensors")
    assert torch.equal(saved(torch.ones(1, 3, 4, 4)), resumed(torch.ones(1, 3, 4, 4)))


def test_it_learns(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    found: list[Progress] = []
    recipe = TrainConfig(steps=60, batch=4, patch=16, learning_rate=4e-3, warmup=5, ema=0.9, validate_every=20)
    train(CONFIG, recipe, pairs, validation, tmp_path, on_validation=found.append)
    assert [progress.step for progress in found] == [20, 40, 60]
    assert found[-1].loss < 0.6 * found[0].loss
    assert found[-1].psnr_y > found[0].psnr_y
    assert found[-1].best == max(progress.psnr_y for progress in found)


def test_loss_that_is_not_finite_stops_and_keeps_the_last_state(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        lr, hr = random_patches(*arguments)  # type: ignore[arg-type]
        return (lr * torch.nan, hr) if arguments[3] == (0, 4) else (lr, hr)

    monkeypatch.setattr(sys.modules["wdsr_edge.training.train"], "random_patches", poisoned)
    with pytest.raises(InputError, match=r"loss is nan at step 4.*learning rate"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path)
    monkeypatch.undo()
    steps: list[int] = []
    train(CONFIG, RECIPE, pairs, validation, tmp_path, on_step=steps.append)
    assert steps == [4, 5, 6]


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage"])
def test_damaged_state_is_named(tmp_path: Path, pairs: list[Pair], validation: list[Pair], damage: str) -> None:
    train(CONFIG, RECIPE, pairs, validation, tmp_path)
    state = tmp_path / "state.pt"
    data = state.read_bytes()
    state.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "garbage": b"x" * 500}[damage])
    with pytest.raises(CheckpointError, match=r"state\.pt is damaged"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path)


def test_state_of_another_run_is_refused(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    train(CONFIG, RECIPE, pairs, validation, tmp_path)
    with pytest.raises(InputError, match="another run"):
        train(dataclasses.replace(CONFIG, channels=12), RECIPE, pairs, validation, tmp_path)


def test_image_smaller_than_the_patch(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    with pytest.raises(InputError, match="patch"):
        train(CONFIG, dataclasses.replace(RECIPE, patch=500), pairs, validation, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("values", [{"steps": 0}, {"batch": -1}, {"ema": 1.0}, {"learning_rate": 0.0}, {"clip": 0.0}])
def test_bad_recipe(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        TrainConfig(**values)  # type: ignore[arg-type]


def test_learning_rate_warms_up_and_decays() -> None:
    recipe = TrainConfig(steps=1000, warmup=100, learning_rate=1.0)
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == pytest.approx(1.0)
    assert rates[99:] == sorted(rates[99:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_are_pairs(scale: int) -> None:
    """Each LR patch is what its HR patch shrinks to, away from the border where the shrinking sees outside."""
    pairs = load_pairs([PHOTOS], scale)
    lr, hr = random_patches(pairs, 16, 8, (1, 2))
    assert lr.shape == (8, 3, 16, 16)
    assert hr.shape == (8, 3, 16 * scale, 16 * scale)
    for small, large in zip(lr, hr, strict=True):
        image = (large.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        shrunk = bicubic(image, 1 / scale).astype(np.int16)
        apart = np.abs(shrunk - (small.permute(1, 2, 0).numpy() * 255).round())[3:-3, 3:-3]
        # Flips and rotations shrink rows and columns in another order, with a rounding in between.
        assert apart.max() <= 1


def test_patches_depend_on_the_seed_alone(pairs: list[Pair]) -> None:
    first, again, other = (random_patches(pairs, 8, 4, seed)[0] for seed in ((3, 7), (3, 7), (3, 8)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_evaluation_of_ground_truth_and_bicubic(pairs: list[Pair]) -> None:
    truth = {pair.lr.tobytes(): pair.hr for pair in pairs}
    perfect = mean_score(evaluate(lambda lr: truth[lr.tobytes()], pairs))
    assert perfect.psnr_y == float("inf")
    assert perfect.ssim_y == pytest.approx(1)
    plain = mean_score(evaluate(lambda lr: bicubic(lr, 2), pairs))
    assert 25 < plain.psnr_rgb < plain.psnr_y < 45


def test_what_is_wrong_with_the_validation_shows_before_the_first_step(tmp_path: Path, pairs: list[Pair]) -> None:
    small = golden_frame()[:10, :10]
    with pytest.raises(InputError, match=r"tiny: .*11 pixels"):
        train(CONFIG, RECIPE, pairs, [Pair("tiny", bicubic(small, 1 / 2), small)], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_shows_before_the_first_step(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    (tmp_path / "file").touch()
    steps: list[int] = []
    with pytest.raises(InputError, match="a file, not a folder"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "file", on_step=steps.append)
    assert steps == []


def test_a_finished_run_says_where_it_stands(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    first: list[Progress] = []
    train(CONFIG, RECIPE, pairs, validation, tmp_path, on_validation=first.append)
    again: list[Progress] = []
    train(CONFIG, RECIPE, pairs, validation, tmp_path, on_validation=again.append)
    assert again == first[-1:]


def test_images_too_small_are_told(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(golden_frame()).save(tmp_path / "good.png")
    Image.fromarray(golden_frame()[:12, :12]).save(tmp_path / "tiny.png")
    left_out: list[Path] = []
    assert [pair.name for pair in load_pairs([tmp_path], 2, on_left_out=left_out.append)] == ["good"]
    assert [path.name for path in left_out] == ["tiny.png"]
