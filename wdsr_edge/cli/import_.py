"""``wdsr-edge import``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._errors import InputError
from .output import JsonFlag, print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from ..data.pairs import Pair
    from ..evaluation import Upscale
    from ..models import EDSR, WDSR
    from ..models.importers import Convention, Imported

SIDE = 48
"""LR pixels a side of what conventions are compared on."""
CLEARLY = 0.05
"""dB that one convention must beat another by."""


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Keras HDF5, or a PyTorch or safetensors state dict.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors checkpoint to write.")],
    mean: Annotated[
        str, typer.Option(metavar="R,G,B", help="Subtracted from RGB in [0, 1]; default: the origin's.")
    ] = "",
    std: Annotated[float | None, typer.Option(help="Divides after that; default: the origin's.")] = None,
    res_scale: Annotated[float | None, typer.Option(help="Factor of each residual block; default: 1.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make a checkpoint of another project's WDSR or EDSR weights, and check it on the shipped photos."""
    if output.suffix != ".safetensors":
        raise InputError(f"{output} must end in .safetensors, as checkpoints do")
    if file.exists() and output.exists() and file.samefile(output):
        raise InputError(f"{output} is the file to import: choose another name")
    colour = _parse_mean(mean) if mean else None
    from ..data.pairs import bicubic, load_pairs
    from ..images.samples import PHOTOS
    from ..models import reference, save_checkpoint
    from ..models.importers import import_model

    found = import_model(file, mean=colour, std=std, res_scale=res_scale)
    save_checkpoint(found.model, output)
    config = found.model.config
    pairs = load_pairs([PHOTOS], config.scale)
    ours = _psnr_y("photos", reference(found.model), pairs)
    plain = _psnr_y("bicubic", lambda lr: bicubic(lr, config.scale), pairs)
    below = ours["mean"] < plain["mean"]
    advice = _advice(found.model, pairs, below)
    command = f"wdsr-edge deploy {shlex.quote(str(output))}"
    if json:
        facts = {"model": config.name, "norm": config.norm, "parameters": config.parameters}
        numbers = {"mean": config.mean, "std": config.std, "res_scale": config.res_scale, "given": sorted(found.given)}
        check = {"psnr_y": ours, "bicubic": plain, "below_bicubic": below, "advice": advice}
        rest = {"notes": found.notes, "output": str(output), "next": command}
        print_json({"origin": found.origin, **facts, **numbers, **check, **rest})
    else:
        _print(found)
        rows = [(name, f"{figure:.2f}", f"{plain[name]:.2f}") for name, figure in ours.items()]
        print_table("PSNR Y on the shipped photos", ("photo", config.name, "bicubic"), rows)
    for note in found.notes:
        say(f"note: {note}")
    if advice:
        say(f"warning: {advice}")
    say(f"wrote {output}; next: {command}")


def _parse_mean(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--mean must be three numbers such as 0.4488,0.4371,0.4040, got {text[:100]!r}") from None


def _psnr_y(what: str, upscale: Upscale, pairs: list[Pair]) -> dict[str, float]:
    """PSNR Y of each photo, and their mean."""
    from ..evaluation import psnr_y

    with progress_bar() as bar:
        found = {pair.name: psnr_y(pair, upscale(pair.lr)) for pair in bar.track(pairs, description=what)}
    return {**found, "mean": sum(found.values()) / len(found)}


def _advice(model: EDSR | WDSR, pairs: list[Pair], below: bool) -> str:
    """Advice if another known convention suits the network better: most wrong ones cost only some tenths of a dB."""
    from ..data.pairs import bicubic
    from ..models import reference
    from ..models.importers import CONVENTIONS, Convention, renormalised

    crops = [_middle(pair) for pair in pairs]
    used = Convention(model.config.mean, model.config.std)
    figures = {
        one: _psnr_y(_options(one), reference(renormalised(model, one)), crops)["mean"] for one in (used, *CONVENTIONS)
    }
    best = max(figures, key=figures.__getitem__)
    floor = _psnr_y("bicubic", lambda lr: bicubic(lr, model.config.scale), crops)["mean"] if below else 0
    if figures[best] > max(figures[used] + CLEARLY, floor):
        gain = f"{_options(best)} gives {figures[best]:.2f} dB and this {figures[used]:.2f} in the middle of the photos"
        return f"{'below bicubic' if below else 'another normalisation does better'}: {gain}"
    if below:
        return "below bicubic, and no known normalisation helps: check --res-scale, and that these weights are trained"
    return ""


def _middle(pair: Pair) -> Pair:
    """SIDE LR pixels a side of a photo, and their HR."""
    scale = len(pair.hr) // len(pair.lr)
    y, x = (max(0, (side - SIDE) // 2) for side in pair.lr.shape[:2])
    lr = pair.lr[y : y + SIDE, x : x + SIDE]
    return pair._replace(lr=lr, hr=pair.hr[y * scale :, x * scale :][: len(lr) * scale, : lr.shape[1] * scale])


def _options(convention: Convention) -> str:
    return f"--mean {','.join(f'{value:g}' for value in convention.mean)} --std {convention.std:.6g}"


def _print(found: Imported) -> None:
    config = found.model.config
    source = {name: "given" if name in found.given else "what the origin uses" for name in ("mean", "std", "res_scale")}
    rows = [
        ("origin", found.origin, "layout of the file"),
        ("model", config.name, "shapes of its tensors"),
        ("norm", config.norm, "kept from the file" if config.norm == "weight" else "plain convolutions"),
        ("parameters", f"{config.parameters:,}", "when deployed"),
        ("mean", ", ".join(f"{value:g}" for value in config.mean), source["mean"]),
        ("std", f"{config.std:.6g}", source["std"]),
        ("res_scale", f"{config.res_scale:g}", source["res_scale"]),
    ]
    print_table("Imported", ("", "", "from"), rows, figures=False)
