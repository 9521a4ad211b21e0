"""The training loop: random patches, L1, Adam with a cosine schedule, an averaged model, resumable state."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .._errors import CheckpointError, InputError
from .._files import check_folder, replacing
from ..config import ModelConfig
from ..evaluation import Pair, bicubic, evaluate, mean_score
from ..models import EDSR, WDSR, build, reference, save_checkpoint
from .data import random_patches


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of one run."""

    steps: int = 20_000
    """Optimiser steps in all."""
    batch: int = 16
    """Patches for each step."""
    patch: int = 48
    """LR pixels a side of a patch (the paper: 96 HR pixels at x2)."""
    learning_rate: float = 1e-3
    """Adam's, at its highest."""
    warmup: int = 100
    """Steps over which the learning rate rises from 0; a cosine takes it to 1 % of its height afterwards."""
    ema: float = 0.999
    """Decay of the averaged weights, which are what is validated and saved; 0 saves the last ones."""
    clip: float = 1.0
    """Largest gradient norm."""
    bfloat16: float = 0.0
    """Share of the steps, from the start, whose convolutions run in bfloat16: about twice as fast on AVX512-BF16."""
    seed: int = 0
    """Seeds the weights and every batch."""
    validate_every: int = 500
    """Steps between validations, each of which also saves the state."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch", "validate_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, lowest, highest in (
            ("ema", 0, 0.99999),
            ("bfloat16", 0, 1),
            ("learning_rate", 1e-9, 1),
            ("clip", 1e-6, 1e6),
        ):
            if not lowest <= getattr(self, name) <= highest:
                raise InputError(f"{name} must be from {lowest:g} to {highest:g}, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


@dataclass
class Progress:
    """Where a run stands."""

    step: int
    """Steps done."""
    loss: float
    """Mean L1 since the last report, in levels of 255."""
    psnr_y: float
    """Validation PSNR on luma of the averaged model, dB."""
    best: float
    """The best of those so far."""
    seconds: float
    """Wall time so far, over all resumed parts."""


def train(
    model_config: ModelConfig,
    recipe: TrainConfig,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    output: str | os.PathLike[str],
    *,
    on_step: Callable[[int], None] = lambda step: None,
    on_validation: Callable[[Progress], None] = lambda progress: None,
) -> EDSR | WDSR:
    """Train from scratch, or go on from ``output/state.pt``; returns the averaged model.

    Every validation saves it as ``last.safetensors``, and as ``best.safetensors`` if its PSNR is the best so far.
    A resumed run draws the same patches as an uninterrupted one, and reports where it stands first. Raises
    InputError, before the first step where that can be known, if an image is too small, the folder cannot be written,
    or the state is of another run; and if the loss or the weights stop being finite.
    """
    for pair in pairs:
        if min(pair.lr.shape[:2]) < recipe.patch:
            raise InputError(f"{pair.name} is smaller than the patch of {recipe.patch} LR pixels: lower patch")
    evaluate(lambda lr: bicubic(lr, model_config.scale), validation)  # whatever is wrong with it shows now
    output = Path(output)
    check_folder(output)
    state_path = output / "state.pt"
    torch.manual_seed(recipe.seed)
    model = build(model_config)
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    progress = Progress(0, math.nan, 0.0, 0.0, 0.0)
    identity = repr((model_config, dataclasses.replace(recipe, validate_every=1)))
    if state_path.exists():
        progress = _restore(state_path, identity, model, average, optimiser)
        on_validation(progress)
    started, losses = time.monotonic() - progress.seconds, 0.0
    since = progress.step
    for step in range(progress.step, recipe.steps):
        loss = _step(model, average, optimiser, recipe, step, pairs)
        if not math.isfinite(loss):
            raise _diverged(f"the loss is {loss} at step {step}", state_path)
        losses += loss
        on_step(step + 1)
        if (step + 1) % recipe.validate_every == 0 or step + 1 == recipe.steps:
            if not all(tensor.isfinite().all() for tensor in average.state_dict().values()):
                raise _diverged(f"the weights are not finite at step {step}", state_path)
            score = mean_score(evaluate(reference(average), validation)).psnr_y
            save_checkpoint(average, output / "last.safetensors")
            if score > progress.best:
                save_checkpoint(average, output / "best.safetensors")
            progress = Progress(
                step + 1, losses / (step + 1 - since), score, max(score, progress.best), time.monotonic() - started
            )
            losses, since = 0.0, step + 1
            _save(state_path, identity, model, average, optimiser, progress)
            on_validation(progress)
    return average.eval()


def _diverged(what: str, state: Path) -> InputError:
    kept = f"; {state} holds the last good state" if state.exists() else ""
    return InputError(f"{what}: train again with a lower learning rate, into another folder{kept}")


def _step(
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    recipe: TrainConfig,
    step: int,
    pairs: Sequence[Pair],
) -> float:
    """One optimiser step and one update of the average; returns the loss in levels of 255."""
    model.train()
    for group in optimiser.param_groups:
        group["lr"] = recipe.rate(step)
    lr, hr = random_patches(pairs, recipe.patch, recipe.batch, (recipe.seed, step))
    with torch.autocast("cpu", torch.bfloat16, enabled=step < recipe.bfloat16 * recipe.steps):
        sr = model(lr)
    loss = (sr.float() - hr).abs().mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    # A young average follows closely, so that it never drags the random start along.
    decay = min(recipe.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for kept, fresh in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(fresh, 1 - decay)
            else:
                kept.copy_(fresh)
    return float(loss.detach()) * 255


def _save(
    path: Path,
    identity: str,
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "progress": dataclasses.asdict(progress),
    }
    with replacing(path) as fresh:
        torch.save(state, fresh)


def _restore(
    path: Path, identity: str, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> Progress:
    try:
        state = torch.load(path, weights_only=True)
        if state["identity"] != identity:
            raise InputError(
                f"{path} belongs to another run (its model or recipe differs; the schedule depends on the number of "
                "steps): choose another output folder"
            )
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        return Progress(**state["progress"])
    except InputError:
        raise
    except Exception as error:  # torch.load raises whatever a damaged file makes it stumble over
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}): remove it to start again, or keep last.safetensors beside it"
        ) from error
