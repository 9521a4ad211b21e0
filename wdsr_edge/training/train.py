"""The training loop: batches, steps, an averaged model, validation, and state that a killed run goes on from."""

from __future__ import annotations

import copy
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .._errors import InputError
from .._files import check_folder, sweep
from ..config import ModelConfig
from ..data.pairs import Pair
from ..evaluation import psnr_y
from ..images.degradation import Recipe
from ..images.files import Rgb
from ..models import EDSR, WDSR, build, reference, save_checkpoint
from .data import Batch, batches
from .distributed import World
from .logs import SAMPLES, Logs
from .losses import distance
from .precision import settle_amp
from .recipe import TrainConfig
from .reparameterise import RATE, branches, reparameterise, save_collapsed
from .state import Identity, Progress, Stateful, identity, restore_state, save_state
from .transfer import transfer

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Student:
    """A network trained in place of a plain one, such as one that is quantised while it learns."""

    network: nn.Module
    """Float32 RGB in [0, 1] in and out, NCHW."""
    save: Callable[[Any, Path], None]
    """Writes the network, or its average, to a path."""


def train(
    model_config: ModelConfig,
    recipe: TrainConfig,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    output: str | os.PathLike[str],
    *,
    start: EDSR | WDSR | None = None,
    teacher: EDSR | WDSR | None = None,
    student: Student | None = None,
    degradations: Recipe | None = None,
    device: torch.device = _CPU,
    world: World | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    on_report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train, or go on from ``output/state.pt``; returns the averaged model, in eval mode on the CPU.

    ``start`` gives the first weights (see ``transfer``), ``teacher`` images to learn from beside the ground truth.
    ``student`` is trained in place of what ``model_config`` names; ``start`` is then what it was made of.
    ``degradations`` make the LR patches; validation is on the pairs as they are.
    ``output`` gets the model as ``last.safetensors``, and as ``best.safetensors`` where its validation PSNR is the best
    so far, ``log.csv``, ``tensorboard/`` and ``samples/``. ``on_report`` hears of every saved state; a resumed run
    reports where it stands first, and draws the same patches as an uninterrupted one. With more than one process
    (``world``), each takes its share of every batch and the first one writes.

    Raises InputError, before the first step where that can be known, if an image is too small, the folder cannot be
    written, or the state is of another run; and if the loss or the weights stop being finite: the last state is kept.
    """
    world = world or World()
    output = Path(output)
    check_run(model_config, recipe, output, teacher, world)
    _check_images(model_config, recipe, pairs, validation)
    with _owning(output) if world.writes else nullcontext():
        if student is None:
            if recipe.quantize:
                raise InputError("quantize trains a student, which wdsr_calibration.finetuning.begin makes")
            torch.manual_seed(recipe.seed)
            model = build(model_config)
            if start is not None:
                transfer(start, model)
            if recipe.reparameterize:
                student = Student(reparameterise(model), save_collapsed)
            else:
                student = Student(model, save_checkpoint)
        recipe = settle_amp(recipe, student.network, output / "state.pt", device, world)
        known = identity(model_config, recipe, pairs, validation, start, teacher, degradations)
        run = _Run(student.network, recipe, recipe.peak_rate(model_config), teacher, device, world)
        data = partial(batches, pairs, recipe, world=world, device=device, degradations=degradations)
        _loop(run, known, data, validation, output, student.save, on_step, on_report)
    return run.average.cpu().eval()


def _loop(
    run: _Run,
    known: Identity,
    data: Callable[[int], Iterator[Batch]],
    validation: Sequence[Pair],
    output: Path,
    save: Callable[[Any, Path], None],
    on_step: Callable[[int], None],
    on_report: Callable[[Progress], None],
) -> None:
    recipe, world, device = run.recipe, run.world, run.device
    state = output / "state.pt"
    progress = Progress()
    if state.exists():
        progress = restore_state(state, known, run.parts)
        on_report(progress)
    _check_agreement(world, f"{known} {progress.step}", device)
    run.prepare()
    logs = Logs(output, progress.step) if world.writes and progress.step < recipe.steps else None
    began = time.monotonic() - progress.seconds
    losses, since = _nothing(device), progress.step
    for step, batch in enumerate(data(progress.step), progress.step):
        losses += run.step(step, batch)
        done, last = step + 1, step + 1 == recipe.steps
        validates = last or done % recipe.validate_every == 0
        reports = validates or done % recipe.save_every == 0
        if (reports or device.type == "cpu") and not losses.isfinite():
            raise _diverged(f"the loss is not finite at step {step}", state)
        on_step(done)
        if not reports:
            continue
        if not run.is_finite():
            raise _diverged(f"the weights are not finite at step {step}", state)
        (loss,) = world.sum([float(losses) / (done - since) / world.size * 255], device)
        score = run.validate(validation, done, logs) if validates else math.nan
        improved = score > progress.best  # not if it is NaN
        best = score if improved else progress.best
        progress = Progress(done, loss, run.rate(step), score, best, time.monotonic() - began)
        losses, since = _nothing(device), done
        if logs is not None:
            save(run.average, output / "last.safetensors")
            if improved:
                save(run.average, output / "best.safetensors")
            logs.add(progress)
            save_state(state, known, run.parts, progress)
        on_report(progress)
    if logs is not None:
        logs.close()


def _nothing(device: torch.device) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=device)


@contextmanager
def _owning(output: Path) -> Iterator[None]:
    """Keep other runs out of ``output``, and remove what a killed one left half-written there."""
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"another run trains into {output}: wait for it, or choose another output folder") from error
    try:
        written = (output / name for name in ("state.pt", "log.csv", "last.safetensors", "best.safetensors"))
        sweep((*written, *(output / "samples").glob("*.png")))
        yield
    finally:
        lock.release()


def check_run(
    config: ModelConfig, recipe: TrainConfig, output: Path, teacher: EDSR | WDSR | None, world: World
) -> None:
    """Raise the InputError that ``train`` would raise whatever the images are; for use before they are decoded."""
    if teacher is not None and teacher.config.scale != config.scale:
        raise InputError(f"the teacher {teacher.config.name} enlarges {teacher.config.scale} times, not {config.scale}")
    if recipe.batch % world.size:
        raise InputError(f"batch must be a multiple of the {world.size} processes, got {recipe.batch}")
    if world.writes:
        check_folder(output, keep=False)


def _check_images(config: ModelConfig, recipe: TrainConfig, pairs: Sequence[Pair], validation: Sequence[Pair]) -> None:
    for pair in pairs:
        if min(pair.lr.shape[:2]) < recipe.patch:
            raise InputError(f"{pair.name} is smaller than the patch of {recipe.patch} LR pixels: lower patch")
    for pair in validation:
        if min(pair.hr.shape[:2]) <= 2 * config.scale:
            raise InputError(f"{pair.name}: too small to validate on: leave it out")
    if not pairs or not validation:
        raise InputError("training needs at least one image to train on and one to validate on")


def _check_agreement(world: World, known: str, device: torch.device) -> None:
    """Refuse processes that would not do the same: other images, or a folder where one finds no state."""
    mine = zlib.crc32(known.encode())
    if world.sum([mine], device) != [mine * world.size]:
        raise InputError("the processes differ in images, options or state: all must see the same data and output")


def _diverged(what: str, state: Path) -> InputError:
    kept = f"; {state} holds the last good state" if state.exists() else ""
    return InputError(f"{what}: train again with a lower learning rate, into another folder{kept}")


class _Run:
    """All that changes from step to step."""

    def __init__(
        self,
        model: nn.Module,
        recipe: TrainConfig,
        peak: float,
        teacher: EDSR | WDSR | None,
        device: torch.device,
        world: World,
    ) -> None:
        self.recipe, self.peak, self.device, self.world = recipe, peak, device, world
        self.model = model.to(device)
        self.average = copy.deepcopy(self.model)
        self.teacher = None if teacher is None else copy.deepcopy(teacher).eval().to(device)
        self.amp = _AUTOCAST[recipe.amp]
        slow = [*branches(self.model)]
        kernels = [parameter for parameter in self.model.parameters() if not any(parameter is one for one in slow)]
        groups = [{"params": kernels, "share": 1.0}, {"params": slow, "share": RATE}]
        self.optimiser = torch.optim.Adam(groups[: 2 if slow else 1], betas=(0.9, recipe.beta2))
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.parts: dict[str, Stateful] = {
            "model": self.model,
            "average": self.average,
            "optimiser": self.optimiser,
            "scaler": self.scaler,
        }
        self.forward: Callable[[Tensor], Tensor] = self.model

    def prepare(self) -> None:
        """Once the weights are what the run begins with: join the other processes, compile."""
        forward: nn.Module = self.model
        if self.world.size > 1:
            if self.device.type == "cuda":
                forward = nn.SyncBatchNorm.convert_sync_batchnorm(forward)  # type: ignore[no-untyped-call]
            forward = DistributedDataParallel(forward)
        self.forward = torch.compile(forward) if self.recipe.compile else forward

    def rate(self, step: int) -> float:
        return self.peak * self.recipe.rate(step)

    def step(self, step: int, batch: Batch) -> Tensor:
        """One optimiser step and one update of the average; the loss of this process's patches."""
        recipe, (lr, hr) = self.recipe, batch
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step) * group["share"]
        amp = self.amp is not None and step < recipe.amp_share * recipe.steps
        with torch.autocast(self.device.type, self.amp, enabled=amp):
            sr = self.forward(lr)
        loss = distance(recipe.loss, sr, hr)
        if self.teacher is not None:
            with torch.no_grad(), torch.autocast(self.device.type, self.amp, enabled=amp):
                target = self.teacher(lr).float()
            loss = (1 - recipe.distillation) * loss + recipe.distillation * distance(recipe.loss, sr, target)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._follow(step)
        return loss.detach()

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        # A young average follows closely, so that it never drags the random start along.
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        # Each once: a module that several share is in a state dict under each of its names.
        averaged, trained = ((*m.parameters(), *m.buffers()) for m in (self.average, self.model))
        for kept, fresh in zip(averaged, trained, strict=True):
            if kept.is_floating_point():
                kept.lerp_(fresh, 1 - decay)
            else:
                kept.copy_(fresh)

    def is_finite(self) -> bool:
        models = (self.model, self.average)
        return all(bool(tensor.isfinite().all()) for model in models for tensor in model.state_dict().values())

    def validate(self, pairs: Sequence[Pair], step: int, logs: Logs | None) -> float:
        """Mean PSNR on luma of the average; every process takes some of the images."""
        upscale: Callable[[Rgb], Rgb] = reference(self.average)
        scores = []
        for i, pair in enumerate(pairs[self.world.share(len(pairs))]):
            sr = upscale(pair.lr)
            scores.append(psnr_y(pair, sr))
            if logs is not None and i < SAMPLES:
                logs.add_sample(i + 1, pair, sr, step)
        total, count = self.world.sum([sum(scores), len(scores)], self.device)
        return total / count


_AUTOCAST: Mapping[str, torch.dtype | None] = {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
