"""``wdsr-edge calibrate``: INT8 within a budget of dB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._errors import InputError
from .._files import user_cache
from .output import BundleArgument, ForceFlag, JsonFlag, count, decibels, print_json, print_table, say, stages_bar

if TYPE_CHECKING:
    from wdsr_calibration import CalibrationSet
    from wdsr_export import Int8


def run(
    model: BundleArgument,
    images: Annotated[
        list[Path], typer.Option(help="DIV2K's root, or any folder of ground-truth images; may be repeated.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle to write; default: the bundle itself.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Budget: dB of PSNR on luma lost on photographs held out, in the mean.")
    ] = 0.02,
    max_drop_drawn: Annotated[
        float,
        typer.Option(help="The same of text, line art, screentone and other drawn kinds; of one picture, twice that."),
    ] = 0.05,
    layers: Annotated[str, typer.Option(help="Where convolutions may be INT8: all, or body.")] = "all",
    identities: Annotated[
        str, typer.Option(help="Identities of the residual adds: float, int8, or auto (as the budget allows).")
    ] = "float",
    ranges: Annotated[
        str, typer.Option(help="min-max, percentile, entropy, mse, or auto (whichever loses least).")
    ] = "auto",
    equalisation: Annotated[bool, typer.Option(help="Make channels reach equally far first.")] = True,
    steps: Annotated[
        int, typer.Option(min=0, max=100_000, help="Steps in which kernels and scales are learned.")
    ] = 2500,
    compile: Annotated[
        bool, typer.Option("--compile", help="Learn through torch.compile: twice as fast, and needs a C++ compiler.")
    ] = False,
    manifest: Annotated[
        str, typer.Option(help="Take these images and crops: div2k, or a TOML file. Default: drawn by the seed.")
    ] = "",
    crops: Annotated[int, typer.Option(help="Crops of photographs to calibrate on.")] = 384,
    crop_size: Annotated[int, typer.Option(help="LR pixels a side of a crop.")] = 32,
    drawn: Annotated[int, typer.Option(help="Crops of each drawn kind; 0: photographs alone.")] = 480,
    held_out: Annotated[int, typer.Option(help="Images to measure the drop on.")] = 24,
    frontier: Annotated[
        bool,
        typer.Option("--frontier", help="Measure what each layer costs, and drop against INT8 share, in any case."),
    ] = False,
    time: Annotated[bool, typer.Option("--time", help="Time each placement on the frontier, in ms, here.")] = False,
    seed: Annotated[int, typer.Option(help="Which images and crops, and the order of rounding.")] = 0,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Calibrate a bundle to INT8, as much of it as loses at most --max-drop dB, for TensorRT and for CPUs.

    The bundle gets int8.onnx, int8-cpu.onnx, and calibration.json and .png with what each layer costs and drop against
    INT8 share. Exit code 1 if the budget cannot be met: nothing is written then, and the best found is shown.
    """
    from wdsr_calibration import (
        Budget,
        CalibrationConfig,
        LearningConfig,
        SampleConfig,
        sample_folders,
        sample_manifest,
    )
    from wdsr_export import quantise

    from ..bundle import Bundle, check_target
    from ..existing import existing
    from ..images.samples import sample_frames
    from ..loading import find_bundle, is_checkpoint
    from ..models import load_model

    if is_checkpoint(model):
        raise InputError(f"{model} is not a bundle: make one of it with wdsr-edge deploy, which calibrates as well")
    if model.endswith(".onnx"):
        raise InputError(
            f"{model} is not a bundle: INT8 is made of a network's weights, so deploy its checkpoint (wdsr-edge import "
            "reads those of other projects)"
        )
    bundle = Bundle.load(find_bundle(model))
    target = check_target(output or (bundle.path if os.path.isdir(model) else Path(bundle.name)))
    if not (target.exists() and target.samefile(bundle.path)):
        existing(target, bundle.manifest.get("weights_sha256"), force=force)
    config = CalibrationConfig(
        ranges=ranges,  # type: ignore[arg-type]
        equalisation=equalisation,
        budget=Budget(max_drop, max_drop_drawn, 2 * max_drop_drawn),
        learning=LearningConfig(steps=steps, seed=seed, compile=compile),
        layers=layers,  # type: ignore[arg-type]
        identities=identities,  # type: ignore[arg-type]
        frontier=frontier or time,
    )
    scale = bundle.config.scale
    if manifest:
        if len(images) > 1:
            raise InputError("--manifest takes one --images, the folder that holds its images")
        samples = sample_manifest(manifest, images[0], scale, record=_record(manifest, scale))
    else:
        wanted = SampleConfig(crops, crop_size, drawn, held_out, seed)
        samples = sample_folders(images, scale, wanted, on_skipped=lambda path, reason: say(f"skipped: {reason}"))
    _say_samples(samples)
    with stages_bar(bundle.name) as (on_stage, on_step):
        made = quantise(
            bundle,
            load_model(model),
            samples,
            sample_frames(),
            target,
            max_drop=max_drop,
            config=config,
            time=time,
            on_stage=on_stage,
            on_step=on_step,
        )
    for one in made:
        for content, share in one.beyond.items():
            say(f"{one.graph}: {content} takes {share:.2f} times its budget")
    met = all(one.met for one in made)
    if json:
        print_json({"model": bundle.name, "bundle": str(target) if met else None, "met": met, **_document(made)})
    else:
        _print(bundle.name, made)
    if not met:
        say(
            f"no placement stays within {max_drop:g} dB on photographs and {max_drop_drawn:g} dB on drawn kinds; "
            "nothing was written, and the table shows what came nearest"
        )
        raise typer.Exit(1)
    say(f"wrote {target}")


def _record(manifest: str, scale: int) -> Path:
    """Where the hashes of a manifest's images are kept: the user's cache folder."""
    return user_cache() / "calibration" / f"{Path(manifest).stem}-x{scale}.sha256"


def _say_samples(samples: CalibrationSet) -> None:
    crops, held_out = (sum(map(len, contents.values())) for contents in (samples.crops, samples.held_out))
    say(
        f"{count(crops, 'crop')} ({', '.join(samples.crops)}), drop measured on {count(held_out, 'other image')}; "
        f"images {samples.sha256[:12]}"
    )


def _document(made: list[Int8]) -> dict[str, Any]:
    return {
        "graphs": {
            one.graph: {
                "met": one.met,
                "drop_db": {engine: losses["photographs"].mean_db for engine, losses in one.losses.items()},
                "losses": one.losses_in_full,
                "simulated_drop_db": one.calibration.drop_db,
                "psnr_db": {found.engine: found.total.psnr_db for found in one.parity},
                "max_levels": {found.engine: found.total.max_levels for found in one.parity},
                "int8_share": one.calibration.share,
                "int8_share_of_body": one.calibration.body_share,
                "ranges": one.calibration.ranges,
                "budget_share_by_ranges": one.calibration.excess_by_ranges,
                "sensitivity_db": one.calibration.sensitivity,
                "float": one.float_convs,
                "convs": one.calibration.placement.convs,
                "identities": one.calibration.placement.identities,
            }
            for one in made
        }
    }


def _print(name: str, made: list[Int8]) -> None:
    rows = [
        ("drop on photographs", *(f"{one.drop_db:.3f} dB" for one in made)),
        ("drop on the worst drawn kind", *(f"{one.worst[0]}: {one.worst[1]:.3f} dB" for one in made)),
        ("PSNR to PyTorch", *(decibels(one.psnr_db) for one in made)),
        ("largest difference", *(count(one.max_levels, "level") for one in made)),
        ("INT8 share of the body", *(f"{one.calibration.body_share:.0%}" for one in made)),
        ("INT8 share of the whole", *(f"{one.calibration.share:.0%}" for one in made)),
        ("identities in INT8", *(str(len(one.calibration.placement.identities)) for one in made)),
        ("ranges", *(one.calibration.ranges for one in made)),
    ]
    print_table(f"{name} in INT8", ("", *(f"{one.graph}.onnx" for one in made)), rows)
