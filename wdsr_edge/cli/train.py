"""``wdsr-edge train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, count, print_json, progress_bar, say


def run(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Exact model name, such as wdsr-b-3x32-x2.")],
    data: Annotated[list[Path], typer.Option(help="Folder of high-resolution images; may be repeated.")],
    validation: Annotated[Path, typer.Option(help="Folder of high-resolution images to validate on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and state; resumes there.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")] = 20_000,
    batch: Annotated[int, typer.Option(min=1, help="Patches for each step.")] = 16,
    patch: Annotated[int, typer.Option(min=8, help="LR pixels a side of a patch.")] = 48,
    learning_rate: Annotated[float, typer.Option(help="Adam's, at its highest.")] = 1e-3,
    bfloat16: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of steps, from the start, in bfloat16.")
    ] = 0.0,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations and saves.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Seeds weights and batches.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Train a network on a folder of images; an interrupted run goes on where it last saved."""
    from ..config import ModelConfig
    from ..training import Progress, TrainConfig, load_pairs, train

    config = ModelConfig.from_name(model)
    recipe = TrainConfig(
        steps, batch, patch, learning_rate, bfloat16=bfloat16, seed=seed, validate_every=validate_every
    )

    def left_out(path: Path) -> None:
        say(f"{path} is too small: left out (a lower --patch takes smaller images)")

    pairs = load_pairs(data, config.scale, least=patch, on_left_out=left_out)
    say(f"{config.name}: {count(len(pairs), 'image')}, {steps} steps into {output}")
    reports: list[Progress] = []
    with progress_bar() as bar:
        task = bar.add_task("train", total=steps)

        def report(progress: Progress) -> None:
            reports.append(progress)
            figures = f"loss {progress.loss:.3f} levels, PSNR Y {progress.psnr_y:.3f} dB, {progress.seconds:.0f} s"
            say(f"step {progress.step}: {figures}")

        train(
            config,
            recipe,
            pairs,
            load_pairs([validation], config.scale, on_left_out=left_out),
            output,
            on_step=lambda step: bar.update(task, completed=step),
            on_validation=report,
        )
    if json:
        print_json([vars(progress) for progress in reports])
    say(f"{output / 'last.safetensors'} holds the averaged weights, best.safetensors beside it the best validated ones")
