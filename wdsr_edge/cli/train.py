"""``wdsr-edge train``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._errors import InputError
from .output import JsonFlag, count, print_json, progress_bar, say

if TYPE_CHECKING:
    from ..data.pairs import Pair
    from ..training import Progress, TrainConfig, World


def run(
    model: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Exact model name, such as wdsr-b-3x32-x2.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any of these options; flags have the last word.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="DIV2K's root, or any folder of HR images; may be repeated.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Folder or named set; default: DIV2K's own, else the photos that ship.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for checkpoints, logs and state; a run resumes there.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Model to begin with: a checkpoint, bundle or zoo name.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Larger model to learn from (distillation).")] = None,
    norm: Annotated[str | None, typer.Option(help="weight, batch or none.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps in all. [600000]")] = None,
    batch: Annotated[int | None, typer.Option(help="Patches for each step, over all processes. [16]")] = None,
    patch: Annotated[int | None, typer.Option(help="LR pixels a side of a patch. [48]")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="[1e-3 with weight norm, else 1e-4]")] = None,
    beta2: Annotated[float | None, typer.Option(help="Adam's decay of squared gradients. [0.999]")] = None,
    schedule: Annotated[str | None, typer.Option(help=r"step (halved) or cosine. \[step]")] = None,
    halve_every: Annotated[int | None, typer.Option(help="Steps between halvings of the rate. [200000]")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps over which the rate rises from 0. [0]")] = None,
    loss: Annotated[str | None, typer.Option(help=r"l1, l2 or charbonnier. \[l1]")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of averaged weights; 0: none. [0]")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm; 0: any. [0]")] = None,
    quantize: Annotated[
        bool | None, typer.Option(help=r"Train the --start model as INT8 computes it, with its scales. \[off]")
    ] = None,
    degrade: Annotated[
        str | None, typer.Option(help="Make LR patches as these deliver them: camera, scan, or a recipe's TOML file.")
    ] = None,
    drawn: Annotated[
        float | None, typer.Option(help="Share of patches of text, line art and other drawn pictures. [0]")
    ] = None,
    reparameterize: Annotated[
        bool | None, typer.Option(help=r"Train each kernel as a sum of branches, saved as one kernel. \[off]")
    ] = None,
    distillation: Annotated[float | None, typer.Option(help="The teacher's share of the loss. [0.5]")] = None,
    amp: Annotated[str | None, typer.Option(help=r"auto, off, bfloat16 or float16. \[auto: what is faster]")] = None,
    amp_share: Annotated[float | None, typer.Option(help="Share of steps, from the start, in AMP. [1]")] = None,
    channels_last: Annotated[bool | None, typer.Option(help=r"NHWC activations. \[on]")] = None,
    compile: Annotated[bool | None, typer.Option(help=r"Run through torch.compile. \[off]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that cut patches. [4 on a GPU, else 0]")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between saved states. [1000]")] = None,
    validate_every: Annotated[int | None, typer.Option(help="Steps between validations. [5000]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seeds weights and batches. [0]")] = None,
    cache: Annotated[
        str | None, typer.Option(help="Folder for decoded images; default: in the user's cache folder.")
    ] = None,
    device: Annotated[str | None, typer.Option(help=r"auto, cpu, cuda or cuda:N. \[auto]")] = None,
    json: JsonFlag = False,
) -> None:
    """Train a network on a folder of images; a run that was stopped goes on from its last saved state.

    A finished run goes on with more --steps. Its learning rate is then that of the longer run: the step schedule goes
    on as if it had never ended, cosine rises to where the longer curve is and falls again.

    The defaults are the paper's recipe. With torchrun --no-python -- wdsr-edge train ... it runs on several GPUs. With
    --quantize, a trained network learns to be INT8, and deploy makes the INT8 graphs of its checkpoint as they are.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    from ..config import ModelConfig
    from ..images.degradation import read_recipe
    from ..models import load_model
    from ..training import Student, check_run, config_of_start, join_world, open_device, train

    places, recipe, network = _options(given)
    missing = [name for name in ("model", "data", "output") if name not in places]
    if missing:
        flags = {"model": "NAME", "data": "--data", "output": "--output"}
        raise InputError(f"train needs {', '.join(flags[name] for name in missing)} (or in the file of --config)")
    begin = load_model(places["start"]) if "start" in places else None
    taught = load_model(places["teacher"]) if "teacher" in places else None
    config_ = dataclasses.replace(ModelConfig.from_name(places["model"]), **network)
    if begin is not None:
        config_ = config_of_start(config_, begin.config)
    if recipe.quantize and (begin is None or begin.config.scale != config_.scale):
        raise InputError("quantize needs --start, a trained model of the same scale")
    degradations = read_recipe(places["degrade"]) if "degrade" in places else None
    where = open_device(places.get("device", "auto"))
    reports: list[Progress] = []
    with join_world(where) as world:
        check_run(config_, recipe, Path(places["output"]), taught, world)
        pairs, validated = _images(places, config_.scale, recipe.patch, world)
        if world.writes:
            processes = f" in {world.size} processes" if world.size > 1 else ""
            say(
                f"{config_.name}, norm {config_.norm}: {count(len(pairs), 'image')}, {recipe.steps} steps on "
                f"{where}{processes}, validated on {count(len(validated), 'image')}, into {places['output']}"
            )
        student = None
        if recipe.quantize and begin is not None:
            from wdsr_calibration import finetuning

            student = Student(finetuning.begin(begin, pairs, validated, recipe.patch), finetuning.save)
        with progress_bar() as bar:
            task = bar.add_task("train", total=recipe.steps, visible=world.writes)

            def report(progress: Progress) -> None:
                reports.append(progress)
                if world.writes:
                    psnr = "" if math.isnan(progress.psnr_y) else f", PSNR Y {progress.psnr_y:.3f} dB"
                    say(f"step {progress.step}: loss {progress.loss:.3f}{psnr}, {progress.seconds:.0f} s")

            train(
                config_,
                recipe,
                pairs,
                validated,
                places["output"],
                start=begin,
                teacher=taught,
                student=student,
                degradations=degradations,
                device=where,
                world=world,
                on_step=lambda step: bar.update(task, completed=step),
                on_report=report,
            )
    if world.writes:
        if json:
            print_json([vars(progress) for progress in reports])
        say(f"{Path(places['output']) / 'last.safetensors'} holds the model, best.safetensors the best validated one")


def _options(given: dict[str, Any]) -> tuple[dict[str, Any], TrainConfig, dict[str, Any]]:
    """Paths, recipe, and what the model's name does not say: from the dataclass, the TOML file and the flags."""
    from ..training import TrainConfig
    from ..training.recipe import PLACES, RunFile, read_run_file

    file = read_run_file(given["config"]) if "config" in given else RunFile({}, {}, {})
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    recipe = {**file.recipe, **{name: value for name, value in given.items() if name in names}}
    places = {**file.places, **{name: value for name, value in given.items() if name in PLACES}}
    network = {**file.network, **({"norm": given["norm"]} if "norm" in given else {})}
    return places, TrainConfig(**recipe), network


def _images(places: dict[str, Any], scale: int, patch: int, world: World) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Training and validation images; the first process decodes them, the others find them in the cache."""
    from ..data.layouts import find_dataset
    from ..data.pairs import least_for_ssim
    from ..images.samples import PHOTOS
    from ..training import ImageCache, open_pairs
    from ..training.cache import default_cache

    images = ImageCache(places.get("cache") or default_cache())
    data = [find_dataset(name) for name in places["data"]]
    if "validation" in places:
        valid = find_dataset(places["validation"])
    else:
        valid = next((folder for folder in data if (folder / "DIV2K_valid_HR").is_dir()), PHOTOS)
    skipped: list[str] = []

    def skip(reason: str) -> None:
        skipped.append(reason)
        if world.writes:
            say(f"skipped: {reason}")

    def opened(what: str, folders: list[Path], **options: Any) -> Sequence[Pair]:
        with progress_bar() as bar:
            task = bar.add_task(what, total=None, visible=world.writes)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            return open_pairs(folders, scale, images, on_skipped=skip, on_image=show, **options)

    if not world.writes:
        world.wait()
    pairs = opened("images", data, least=patch)
    validated = opened("validation", [valid], split="valid", least=least_for_ssim(scale))
    if world.writes:
        world.wait()
        if skipped:
            say(f"{count(len(skipped), 'image')} skipped")
    return pairs, validated
