"""``wdsr-edge deploy``, the main job."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._errors import InputError
from .._files import read_text
from .benchmark import auto_now, document_of, keep_fastest, say_faults
from .output import ForceFlag, JsonFlag, ModelArgument, count, decibels, print_json, print_table, say, stages_bar
from .sizes import parse_size

_MANY_LEVELS = 8
"""More than this, a largest difference looks worse than it is."""

if TYPE_CHECKING:
    from wdsr_export import Deployment, Parity

    from ..bundle import Bundle
    from ..config import ModelConfig
    from ..measuring.comparison import Size
    from ..measuring.timing import Latency
    from ..metrics import Difference


def run(
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Bundle directory; default: the model's name.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Photo or folder to verify on; default: the shipped ones.")
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="DIV2K's root or any folder of ground-truth images, to make INT8; may be repeated."),
    ] = None,
    max_drop: Annotated[float, typer.Option(help="INT8's budget: dB of PSNR on luma.")] = 0.02,
    size: Annotated[list[str] | None, typer.Option(help="LR frame to time, WIDTHxHEIGHT; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, max=3600.0, help="Time for each size.")] = 2.0,
    card: Annotated[Path | None, typer.Option(help="JSON object for the manifest: training, figures, licence.")] = None,
    force: ForceFlag = False,
    json: JsonFlag = False,
) -> None:
    """Fold, export, verify against PyTorch, calibrate, write the bundle, and time it; one table says how it went.

    INT8 is made with --calibration, or is what a checkpoint of train --quantize has learned; without either, a bundle
    keeps the INT8 graphs that it has, or that a bundle of the same weights at the output has. A bundle of other weights
    there is only replaced with --force. The fastest engine and precision are remembered, and are what auto then means
    for this bundle on this machine.
    """
    from wdsr_calibration import finetuning, sample_folders
    from wdsr_export import deploy
    from wdsr_export.graph import weights_hash

    from ..bundle import Bundle
    from ..existing import existing, int8_of
    from ..images.samples import sample_frames
    from ..loading import find_bundle, is_checkpoint
    from ..models import fold, load_model

    network = load_model(model)
    target = output or Path(network.config.name)
    weights = weights_hash(fold(network))
    before = existing(target, weights, force=force)
    frames = sample_frames(images)
    sizes = [parse_size(text) for text in dict.fromkeys(size or ("480x270", "640x360", "960x540"))]
    origin = None if is_checkpoint(model) else Bundle.load(find_bundle(model))
    same = before is not None and before.manifest.get("weights_sha256") == weights
    keep = before if same and before and (origin is None or not int8_of(origin)) else origin
    details = _read_card(card) if card else _card_of(origin or (before if same else None))
    samples, learned = None, finetuning.learned(model) if origin is None else None
    if calibration and learned:
        raise InputError(f"{model} was trained with --quantize and has its INT8: leave out --calibration")
    if calibration:
        scale = network.config.scale
        samples = sample_folders(calibration, scale, on_skipped=lambda path, reason: say(f"skipped: {reason}"))
    with stages_bar(network.config.name) as (on_stage, on_step):
        found = deploy(
            network,
            target,
            frames,
            samples=samples,
            max_drop=max_drop,
            learned=learned,
            keep=keep,
            sizes=sizes,
            seconds=seconds,
            details=details,
            on_stage=on_stage,
            on_step=on_step,
        )
    if found.bundle is not None:
        keep_fastest(found.bundle, found.timed)
    auto = None if found.bundle is None else auto_now(found.bundle)
    if json:
        print_json({**_document(network.config, found), "auto": None if auto is None else auto.document()})
    else:
        _print_report(network.config, found, sizes, bool(calibration))
    say_faults(found.timed)
    if found.bundle is None:
        failed = next((parity for parity in found.parity if not parity.passed), None)
        fault = f"parity of {failed.graph} failed: {failed.diagnosis}" if failed else ""
        say(f"nothing was written: {fault or f'no INT8 placement stays within {max_drop:g} dB'}")
        raise typer.Exit(1)
    if before and int8_of(before) and not int8_of(found.bundle):
        say("the INT8 of the bundle that was replaced is lost: --calibration makes it for these weights")
    say(f"wrote {found.bundle.path}")
    say(str(auto))


def _document(config: ModelConfig, found: Deployment) -> dict[str, Any]:
    return {
        "model": config.name,
        "bundle": None if found.bundle is None else str(found.bundle.path),
        "parity": [
            {"graph": p.graph, "engine": p.engine, "passed": p.passed, "diagnosis": p.diagnosis, **p.total._asdict()}
            for p in _parities(found)
        ],
        "int8_losses": {one.graph: one.losses_in_full for one in found.int8},
        "choices": document_of(found.timed),
        "passes": [saving._asdict() for saving in found.savings],
    }


def _parities(found: Deployment) -> list[Parity]:
    return [*found.parity, *(parity for one in found.int8 for parity in one.parity)]


def _print_report(config: ModelConfig, found: Deployment, sizes: Sequence[Size], asked: bool) -> None:
    """A column for each precision; the worst engine counts for parity, and has a row of its own for time."""
    from ..backends import COMPILED, ON_CPU

    columns = [
        [parity.total for parity in _parities(found) if parity.graph in graphs]
        for graphs in (("fp32",), ("fp16",), ("int8", "int8-cpu"))
    ]
    missing = ["not reached", "not reached", "not reached" if asked or found.bundle is None else "needs --calibration"]

    def row(title: str, of: Callable[[Difference], float], best: Any, shown: Callable[[Any], str]) -> list[str]:
        cells = [
            shown(best(map(of, column))) if column else words for column, words in zip(columns, missing, strict=True)
        ]
        return [title, *cells]

    rows = [
        row("PSNR to PyTorch", lambda total: total.psnr_db, min, decibels),
        row("largest difference", lambda total: total.max_levels, max, lambda levels: count(levels, "level")),
    ]
    if found.int8:
        rows.append(["drop on photographs", "", "", f"{max(one.drop_db for one in found.int8):.3f} dB"])
        kind, drop = max((one.worst for one in found.int8), key=lambda worst: worst[1])
        rows.append([f"drop on {kind}, the worst", "", "", f"{drop:.3f} dB"])
    for engine in dict.fromkeys(one.choice.backend for one in found.timed):
        on_cpu = engine in ON_CPU
        usual: dict[str, str] = {
            "fp32": "",
            "fp16": "for GPUs" if on_cpu else "",
            "int8": "" if columns[2] else missing[2],
        }
        mine = [one for one in found.timed if one.choice.backend == engine]
        if not on_cpu:
            golden: dict[str, str] = {
                one.choice.precision: decibels(one.golden_db) for one in mine if one.golden_db is not None
            }
            rows.append([f"golden frame in {engine}", *(usual | golden).values()])
        for h, w in sizes:
            times: dict[str, str] = {one.choice.precision: _shown(one.latency.get((h, w))) for one in mine}
            rows.append([f"{w}x{h} in {engine}, p50 (p99) ms", *(usual | times).values()])
    if not any(one.choice.backend in COMPILED for one in found.timed):
        rows.append(["TensorRT", *3 * ["no GPU here"]])
    title = f"{config.name}: {config.parameters:,} parameters, {config.macs:,} MACs/LR pixel"
    print_table(title, ("", "FP32", "FP16", "INT8"), rows)
    for name, column in zip(("FP16", "INT8"), columns[1:], strict=True):
        worst = max(column, key=lambda total: total.max_levels, default=None)
        if worst is not None and worst.max_levels > _MANY_LEVELS:
            say(_about_levels(name, worst))


def _about_levels(name: str, total: Difference) -> str:
    """Comment on a large difference of single values."""
    typical = 255 * 10 ** (-total.psnr_db / 20)
    return (
        f"{count(total.max_levels, 'level')} in {name} is the worst of all values, at a hard edge; {total.psnr_db:.1f} "
        f"dB is {typical:.1f} levels for a typical one (root mean square)"
    )


def _shown(latency: Latency | None) -> str:
    return f"{latency.p50_ms:.1f} ({latency.p99_ms:.1f})" if latency else "failed"


def _read_card(path: Path) -> dict[str, Any]:
    from ..bundle import check_details

    try:
        card = json_module.loads(read_text(path), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as JSON ({why})") from error
    if not isinstance(card, dict) or not card.keys() <= set(CARD_KEYS):
        raise InputError(f"{path}: expected an object with some of {', '.join(CARD_KEYS)}")
    try:
        check_details(card)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return card


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number in JSON")


def _card_of(origin: Bundle | None) -> dict[str, Any]:
    """Training details of the bundle that a model came from, so that deploying it again keeps them."""
    return {key: origin.manifest[key] for key in CARD_KEYS if key in origin.manifest} if origin else {}


CARD_KEYS = ("training", "figures", "licence")
