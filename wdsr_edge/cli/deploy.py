"""``wdsr-edge deploy``, the main job."""

from __future__ import annotations

import dataclasses
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._errors import InputError
from .output import JsonFlag, ModelArgument, count, decibels, print_json, print_table, progress_bar, say
from .sizes import parse_size

if TYPE_CHECKING:
    from wdsr_export import Deployment

    from ..config import ModelConfig


def run(
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle directory; default: the model's name.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Photo or folder to verify on; default: the shipped ones.")
    ] = None,
    size: Annotated[list[str] | None, typer.Option(help="LR frame to time, WIDTHxHEIGHT; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, max=3600.0, help="Time for each size.")] = 2.0,
    card: Annotated[Path | None, typer.Option(help="JSON object for the manifest: training, figures, licence.")] = None,
    json: JsonFlag = False,
) -> None:
    """Fold, export, verify against PyTorch, time, and write the bundle; one table says how it went."""
    from wdsr_export import deploy

    from ..models import load_model
    from ..samples import sample_frames

    network = load_model(model)
    target = output or Path(network.config.name)
    frames = sample_frames(images)
    sizes = [parse_size(text) for text in size or ("480x270", "640x360", "960x540")]
    details = _read_card(card) if card else _card_of(model)
    with progress_bar() as bar:
        task = bar.add_task("deploy", total=4)

        def on_stage(stage: str) -> None:
            say(f"{network.config.name}: {stage}")
            bar.update(task, description=stage, advance=1)

        found = deploy(network, target, frames, sizes=sizes, seconds=seconds, details=details, on_stage=on_stage)
    if json:
        latency = [{"height": h, "width": w, **dataclasses.asdict(timed)} for (h, w), timed in found.latency.items()]
        print_json(
            {
                "model": network.config.name,
                "bundle": None if found.bundle is None else str(found.bundle.path),
                "backend": found.backend,
                "parity": {
                    precision: {"passed": parity.passed, "diagnosis": parity.diagnosis, **parity.total._asdict()}
                    for precision, parity in found.parity.items()
                },
                "latency": {"fp32": latency},
                "passes": [saving._asdict() for saving in found.savings],
                "not_built_yet": ["int8", "tensorrt"],
            }
        )
    else:
        _print_report(network.config, found)
    if found.bundle is None:
        failed = next(parity for parity in found.parity.values() if not parity.passed)
        say(f"parity of {failed.graph} failed, nothing was written: {failed.diagnosis}")
        raise typer.Exit(1)
    say(f"wrote {found.bundle.path}")


def _print_report(config: ModelConfig, found: Deployment) -> None:
    totals = [parity.total for parity in found.parity.values()]
    rows = [
        ("PSNR to PyTorch", *(decibels(total.psnr_db) for total in totals)),
        ("largest difference", *(count(total.max_levels, "level") for total in totals)),
    ]
    for (h, w), latency in found.latency.items():
        rows.append((f"{w}x{h}, p50 (p99) ms", f"{latency.p50_ms:.1f} ({latency.p99_ms:.1f})", "for GPUs"))
    missing = ["by calibrate", "not built yet"]
    title = (
        f"{config.name}: {config.parameters:,} parameters, {config.macs:,} MACs/LR pixel, {found.backend} on the CPU"
    )
    print_table(title, ("", "FP32", "FP16", "INT8", "TensorRT"), [(*row, *missing) for row in rows])


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json_module.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(card, dict) or not card.keys() <= set(CARD_KEYS):
        raise InputError(f"{path}: expected an object with some of {', '.join(CARD_KEYS)}")
    return card


def _card_of(model: str) -> dict[str, Any]:
    """What the bundle that a model came from says of its training, so that deploying it again keeps that."""
    from ..bundle import Bundle
    from ..loading import find_bundle, is_checkpoint

    if is_checkpoint(model):
        return {}
    manifest = Bundle.load(find_bundle(model)).manifest
    return {key: manifest[key] for key in CARD_KEYS if key in manifest}


CARD_KEYS = ("training", "figures", "licence")
