"""The training loop on a tiny network: it learns what it is told to, keeps what it should, and fails cleanly."""

from __future__ import annotations

import csv
import resource
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor, nn

from tests.strategies import trained_like
from tests.wdsr_edge.training.test_data import limit
from wdsr_edge import InputError
from wdsr_edge.config import ModelConfig
from wdsr_edge.data.pairs import Pair, bicubic
from wdsr_edge.evaluation import evaluate
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import build, load_checkpoint, reference
from wdsr_edge.training import Progress, TrainConfig, World, train
from wdsr_edge.training.data import random_patches
from wdsr_edge.training.losses import distance

CONFIG = ModelConfig("wdsr-b", 1, 8, 2)
RECIPE = TrainConfig(steps=6, batch=2, patch=8, amp="off", validate_every=3)


def test_it_learns(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    found: list[Progress] = []
    recipe = TrainConfig(
        steps=60, batch=4, patch=16, learning_rate=4e-3, warmup=5, ema=0.9, amp="off", validate_every=20
    )
    model = train(CONFIG, recipe, pairs, validation, tmp_path, on_report=found.append)
    assert [progress.step for progress in found] == [20, 40, 60]
    assert found[-1].loss < 0.6 * found[0].loss
    assert found[-1].psnr_y > found[0].psnr_y
    assert found[-1].best == max(progress.psnr_y for progress in found)
    for upscaler in (model, load_checkpoint(tmp_path / "last.safetensors")):
        (score,) = evaluate(reference(upscaler), validation)
        assert score.psnr_y == found[-1].psnr_y
    assert not model.training


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "l2"},
        {"loss": "charbonnier"},
        {"amp": "bfloat16"},
        {"amp": "float16", "clip": 1.0},
        {"channels_last": False},
        {"schedule": "cosine", "clip": 0.1},
    ],
    ids=str,
)
def test_it_learns_with_any_option(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], changes: dict[str, Any]
) -> None:
    found: list[Progress] = []
    recipe = TrainConfig(
        **{"steps": 30, "batch": 4, "patch": 8, "learning_rate": 4e-3, "validate_every": 15, "amp": "off"} | changes
    )
    train(CONFIG, recipe, pairs, validation, tmp_path, on_report=found.append)
    assert found[-1].loss < 0.8 * found[0].loss
    assert found[-1].psnr_y > found[0].psnr_y + 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # of torch.compile's own
def test_it_learns_through_torch_compile(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    plain, compiled = (
        train(CONFIG, replace(RECIPE, compile=compile), pairs, validation, tmp_path / str(compile))
        for compile in (False, True)
    )
    for ours, theirs in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert load_checkpoint(tmp_path / "True" / "last.safetensors").config == CONFIG


@pytest.mark.parametrize(("loss", "expected"), [("l1", 3 / 255), ("l2", 9 / 255**2), ("charbonnier", 10**0.5 / 255)])
def test_a_loss_by_hand(loss: Any, expected: float) -> None:
    image = torch.full((1, 3, 4, 4), 0.5)
    assert float(distance(loss, image + 3 / 255, image)) == pytest.approx(expected)


def test_the_logged_loss_is_the_mean_in_levels(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    """At a rate of next to nothing the network stays what it was at the start."""
    found: list[Progress] = []
    recipe = replace(RECIPE, steps=3, learning_rate=1e-9, save_every=2)
    model = train(CONFIG, recipe, pairs, validation, tmp_path, on_report=found.append)
    losses = []
    for step in range(3):
        lr, hr = random_patches(pairs, 8, 2, (0, step))
        with torch.no_grad():
            losses.append(float((model(lr) - hr).abs().mean()) * 255)
    assert [progress.loss for progress in found] == pytest.approx([sum(losses[:2]) / 2, losses[2]], rel=1e-4)


def test_the_average_follows_the_weights(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    """``ema`` is the decay of an average that starts at the second weights: young, it forgets faster."""
    weights: list[list[Tensor]] = []
    recipe = replace(RECIPE, steps=1, ema=0.5)
    for steps in range(1, 4):
        plain = replace(recipe, steps=steps, ema=0)
        model = train(CONFIG, plain, pairs, validation, tmp_path / f"plain{steps}")
        weights.append(list(model.state_dict().values()))
    averaged = train(CONFIG, replace(recipe, steps=3), pairs, validation, tmp_path / "averaged").state_dict().values()
    torch.manual_seed(0)
    expected = list(build(CONFIG).state_dict().values())
    for decay, fresh in zip((1 / 10, 2 / 11, 3 / 12), weights, strict=True):
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, fresh, strict=True)]
    for found, wanted in zip(averaged, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_an_old_average_is_smoother_than_the_weights(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    averages = [
        train(CONFIG, replace(RECIPE, steps=12, validate_every=12, ema=ema), pairs, validation, tmp_path / str(ema))
        for ema in (0, 0.5, 0.9)
    ]
    torch.manual_seed(0)
    fresh = build(CONFIG)
    first = list(fresh.parameters())
    way = [
        sum(float((p - q).detach().square().sum()) for p, q in zip(model.parameters(), first, strict=True))
        for model in averages
    ]
    assert way[0] > way[1] > way[2] > 0


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Learning rate and gradient norm of every step that the optimiser takes."""
    found: list[tuple[float, float]] = []
    step = torch.optim.Adam.step

    def measured(self: torch.optim.Adam, *arguments: Any) -> Any:
        (group,) = self.param_groups
        gradients = [parameter.grad.norm() for parameter in group["params"]]
        found.append((group["lr"], float(torch.stack(gradients).norm())))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", measured)
    return found


@pytest.mark.parametrize("amp", ["off", "float16"])
def test_clipping_bounds_the_gradient(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], optimised: list[tuple[float, float]], amp: Any
) -> None:
    train(CONFIG, replace(RECIPE, clip=0.01, amp=amp), pairs, validation, tmp_path / "clipped")
    assert [norm for _, norm in optimised] == pytest.approx([0.01] * 6, rel=1e-2)
    optimised.clear()
    train(CONFIG, RECIPE, pairs, validation, tmp_path / "free")
    assert max(norm for _, norm in optimised) > 0.1


def test_the_optimiser_is_told_what_the_recipe_says(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], optimised: list[tuple[float, float]]
) -> None:
    found: list[Progress] = []
    recipe = replace(RECIPE, warmup=4, learning_rate=0.02, beta2=0.9)
    train(CONFIG, recipe, pairs, validation, tmp_path, on_report=found.append)
    assert [rate for rate, _ in optimised] == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02, 0.02])
    assert [progress.learning_rate for progress in found] == pytest.approx([0.015, 0.02])
    (group,) = torch.load(tmp_path / "state.pt", weights_only=True)["optimiser"]["param_groups"]
    assert tuple(group["betas"]) == (0.9, 0.9)


@pytest.mark.parametrize(("share", "steps"), [(1.0, 6), (0.5, 3), (0.0, 0)])
def test_amp_is_for_the_first_steps(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], share: float, steps: int
) -> None:
    """Seen in what the 5x5 convolution makes in training; validation is float32."""
    types: list[torch.dtype] = []

    def see(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.kernel_size == (5, 5):
            assert output.dtype == torch.float32 or module.training
            types.extend([output.dtype] if module.training else [])

    hook = nn.modules.module.register_module_forward_hook(see)
    try:
        train(CONFIG, replace(RECIPE, amp="bfloat16", amp_share=share), pairs, validation, tmp_path)
    finally:
        hook.remove()
    assert types == [torch.bfloat16] * steps + [torch.float32] * (6 - steps)


def test_a_start_gives_the_first_weights(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    start = trained_like(CONFIG)
    recipe = replace(RECIPE, steps=1, learning_rate=1e-9)
    model = train(CONFIG, recipe, pairs, validation, tmp_path, start=start)
    assert torch.allclose(model(torch.ones(1, 3, 9, 9) / 3), start(torch.ones(1, 3, 9, 9) / 3), atol=1e-5)


def test_a_student_of_nothing_but_its_teacher_becomes_like_it(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    """The teacher's own weights are the place where a distillation share of 1 has nothing left to learn."""
    teacher = trained_like(CONFIG).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    found: list[Progress] = []
    recipe = replace(RECIPE, learning_rate=1e-9, save_every=1, distillation=1.0)
    train(CONFIG, recipe, pairs, validation, tmp_path / "own", start=teacher, teacher=teacher, on_report=found.append)
    assert max(progress.loss for progress in found) < 0.01
    found.clear()
    recipe = replace(recipe, distillation=0.25)
    train(CONFIG, recipe, pairs, validation, tmp_path / "mixed", start=teacher, teacher=teacher, on_report=found.append)
    mixed = [progress.loss for progress in found]
    found.clear()
    train(CONFIG, recipe, pairs, validation, tmp_path / "alone", start=teacher, on_report=found.append)
    assert mixed == pytest.approx([0.75 * progress.loss for progress in found], rel=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert teacher.training


@pytest.mark.parametrize("norm", ["weight", "batch", "none"])
@pytest.mark.parametrize("arch", ["edsr", "wdsr-a", "wdsr-b"])
def test_any_network_trains_and_is_saved(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], arch: Any, norm: Any
) -> None:
    config = ModelConfig(arch, 1, 8, 2, norm=norm, res_scale=0.5)
    model = train(config, RECIPE, pairs, validation, tmp_path)
    saved = load_checkpoint(tmp_path / "last.safetensors")
    assert saved.config == config
    assert torch.equal(saved(torch.ones(1, 3, 4, 4)), model(torch.ones(1, 3, 4, 4)))
    torch.manual_seed(0)
    fresh = build(config).state_dict()
    assert not any(torch.equal(fresh[name], tensor) for name, tensor in model.named_parameters())
    counts = {int(tensor) for name, tensor in saved.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == ({6} if norm == "batch" else set())


def test_best_is_the_checkpoint_that_was_validated_best(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    """At a rate this high PSNR goes up and down."""
    found: list[Progress] = []
    recipe = replace(RECIPE, steps=30, validate_every=2, learning_rate=0.1)
    train(CONFIG, recipe, pairs, validation, tmp_path, on_report=found.append)
    scores = [progress.psnr_y for progress in found]
    assert max(scores) > scores[-1]
    for name, expected in (("best", max(scores)), ("last", scores[-1])):
        (score,) = evaluate(reference(load_checkpoint(tmp_path / f"{name}.safetensors")), validation)
        assert score.psnr_y == expected
    assert [progress.best for progress in found] == [max(scores[: i + 1]) for i in range(len(scores))]


def test_csv_and_tensorboard_hold_every_report(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    found: list[Progress] = []
    train(CONFIG, replace(RECIPE, save_every=2), pairs, validation, tmp_path, on_report=found.append)
    with open(tmp_path / "log.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    np.testing.assert_equal(rows, [asdict(progress) for progress in found])
    assert [progress.step for progress in found] == [2, 3, 4, 6]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate", "psnr_y"}
    assert [(point.step, point.value) for point in events.Scalars("loss")] == [
        (progress.step, pytest.approx(progress.loss)) for progress in found
    ]
    assert [point.step for point in events.Scalars("psnr_y")] == [3, 6]
    assert [len(events.Images(tag)) for tag in events.Tags()["images"]] == [2]


def test_samples_are_lr_sr_and_hr_side_by_side(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    """Of the first four images, even if two have one name."""
    model = train(CONFIG, RECIPE, pairs, [*validation, *pairs[:1], *pairs], tmp_path)
    assert len(list((tmp_path / "samples").iterdir())) == 4
    (path,) = (tmp_path / "samples").glob("*golden*.png")
    with Image.open(path) as image:
        views = np.split(np.asarray(image), 3, axis=1)
    ((_, lr, hr),) = validation
    for view, expected in zip(views, (lr.repeat(2, axis=0).repeat(2, axis=1), reference(model)(lr), hr), strict=True):
        assert np.array_equal(view, expected)


def test_the_sample_of_a_large_image_is_its_middle(tmp_path: Path, pairs: list[Pair]) -> None:
    train(CONFIG, replace(RECIPE, steps=1), pairs, pairs, tmp_path)
    for path in (tmp_path / "samples").iterdir():
        with Image.open(path) as image:
            assert image.size == (3 * 192, 192)
            right = np.asarray(image)[:, 2 * 192 :]
        (hr,) = (pair.hr for pair in pairs if pair.name in path.stem)
        top, left = ((side - 192) // 2 for side in hr.shape[:2])
        assert np.array_equal(right, hr[top : top + 192, left : left + 192])


@pytest.mark.parametrize("name", ["lat\udce9in", "[red]x\n", "a" * 250, "..."])
def test_an_image_may_have_any_name(tmp_path: Path, pairs: list[Pair], validation: list[Pair], name: str) -> None:
    ((_, lr, hr),) = validation
    train(CONFIG, replace(RECIPE, steps=1), pairs, [Pair(name, lr, hr)], tmp_path)
    assert len(list((tmp_path / "samples").iterdir())) == 1


class Poison:
    """Random patches that are NaN from one step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, pairs: Any, patch: int, batch: int, seed: tuple[int, int], *rest: Any) -> tuple[Tensor, Tensor]:
        lr, hr = random_patches(pairs, patch, batch, seed, *rest)
        return (lr * torch.nan, hr) if seed[1] >= self.step else (lr, hr)


def test_loss_that_is_not_finite_stops_and_keeps_the_last_state(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["wdsr_edge.training.data"], "random_patches", Poison(4))
    with pytest.raises(InputError, match=r"loss is not finite at step 4.*learning rate.*state\.pt holds") as raised:
        train(CONFIG, RECIPE, pairs, validation, tmp_path)
    assert "\n" not in str(raised.value)
    monkeypatch.undo()
    steps: list[int] = []
    train(CONFIG, RECIPE, pairs, validation, tmp_path, on_step=steps.append)
    assert steps == [4, 5, 6]


def test_weights_that_are_not_finite_are_not_saved(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss shows them one step later."""
    step = torch.optim.Adam.step

    def poisoning(self: torch.optim.Adam, *arguments: Any) -> Any:
        done = step(self, *arguments)
        (group,) = self.param_groups
        weight = group["params"][0]
        if self.state[weight]["step"] == 6:
            weight.data[0] = torch.nan
        return done

    monkeypatch.setattr(torch.optim.Adam, "step", poisoning)
    with pytest.raises(InputError, match=r"the weights are not finite at step 5.*state\.pt holds the last good"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["step"] == 3
    assert load_checkpoint(tmp_path / "last.safetensors").config == CONFIG


def test_a_network_that_never_is_finite_leaves_no_checkpoint(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    config = ModelConfig("wdsr-b", 40, 8, 2, norm="none", std=1e-3, res_scale=1e3)
    with pytest.raises(InputError, match=r"not finite at step 0: train again with a lower learning rate") as raised:
        train(config, RECIPE, pairs, validation, tmp_path)
    assert "state.pt" not in str(raised.value)
    assert not list(tmp_path.glob("*.safetensors"))


def test_image_smaller_than_the_patch(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    with pytest.raises(InputError, match="smaller than the patch of 500 LR pixels"):
        train(CONFIG, replace(RECIPE, patch=500), pairs, validation, tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_is_wrong_with_the_validation_shows_before_the_first_step(tmp_path: Path, pairs: list[Pair]) -> None:
    steps: list[int] = []
    small = golden_frame()[:4, :40]
    with pytest.raises(InputError, match=r"tiny: too small"):
        train(CONFIG, RECIPE, pairs, [Pair("tiny", bicubic(small, 1 / 2), small)], tmp_path, on_step=steps.append)
    with pytest.raises(InputError, match="at least one image"):
        train(CONFIG, RECIPE, pairs, [], tmp_path, on_step=steps.append)
    assert steps == []
    assert not any(tmp_path.iterdir())


def test_an_output_that_cannot_be_written_shows_before_the_first_step(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    (tmp_path / "file").touch()
    steps: list[int] = []
    with pytest.raises(InputError, match="a file, not a folder"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "file", on_step=steps.append)
    assert steps == []


def test_a_teacher_of_another_scale_is_refused(tmp_path: Path, pairs: list[Pair], validation: list[Pair]) -> None:
    teacher = build(replace(CONFIG, scale=3))
    with pytest.raises(InputError, match="wdsr-b-1x8-x3 enlarges 3 times, not 2"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "run", teacher=teacher)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_processes_cannot_share_is_refused(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    with pytest.raises(InputError, match="multiple of the 4 processes, got 2"):
        train(CONFIG, RECIPE, pairs, validation, tmp_path / "run", world=World(0, 4))
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_keeps_the_last_good_state(
    tmp_path: Path, pairs: list[Pair], validation: list[Pair]
) -> None:
    recipe = replace(RECIPE, save_every=1)
    train(CONFIG, replace(recipe, steps=6), pairs, validation, tmp_path / "straight")

    def fill(progress: Progress) -> None:
        if progress.step == 2:
            limits.__enter__()

    size = (tmp_path / "straight" / "state.pt").stat().st_size
    limits = limit(resource.RLIMIT_FSIZE, size - 1000)
    try:
        with pytest.raises(InputError, match=r"cannot write .*state\.pt"):
            train(CONFIG, recipe, pairs, validation, tmp_path / "full", on_report=fill)
    finally:
        limits.__exit__(None, None, None)
    steps: list[int] = []
    train(CONFIG, recipe, pairs, validation, tmp_path / "full", on_step=steps.append)
    assert steps == [3, 4, 5, 6]
    for name in ("last", "best"):
        ours, theirs = (tmp_path / run / f"{name}.safetensors" for run in ("full", "straight"))
        assert ours.read_bytes() == theirs.read_bytes()
