"""``wdsr-edge models``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .._errors import BundleError, InputError
from .output import JsonFlag, print_json, print_table, say

if TYPE_CHECKING:
    from ..config import ModelConfig


LADDER = tuple(
    f"{arch}-{blocks}x{channels}-x{scale}"
    for scale in (2, 3, 4)
    for arch, channels in (("edsr", 64), ("wdsr-a", 32), ("wdsr-b", 32))
    for blocks in (1, 3, 5, 8)
)


class Model(NamedTuple):
    """A line of the list."""

    name: str
    config: ModelConfig
    shipped: bool
    psnr_y: Mapping[str, float]
    """Of each test set, dB on luma, as its bundle has it; nothing if no weights ship."""
    files: Mapping[str, int]
    """Bytes of each file of its bundle."""


def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Exact names; default: a ladder.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List models: deployed parameters, multiply-accumulates for each LR pixel, halo, and whether weights ship.

    Those that ship also show PSNR on luma in FP32, as measured when they were made, and the sizes of their files.
    """
    from ..loading import zoo_names

    shipped = set(zoo_names())
    if names:
        found = [(_shipped(name) if name in shipped else None) or _unshipped(name) for name in names]
    else:
        there = {name: one for name in sorted(shipped) if (one := _shipped(name)) is not None}
        found = [*there.values(), *(_unshipped(name) for name in LADDER if name not in there)]
        found.sort(key=lambda one: (one.config.scale, one.config.arch, one.config.channels, one.config.blocks))
    if json:
        print_json([_entry(one) for one in found])
        return
    rows = [
        (one.name, f"{one.config.parameters:,}", f"{one.config.macs:,}", str(one.config.halo), "yes" * one.shipped)
        for one in found
    ]
    print_table("Models", ("model", "parameters", "MACs/LR pixel", "halo", "weights ship"), rows)
    if any(one.shipped for one in found):
        print()
        _print_shipped([one for one in found if one.shipped])


def _unshipped(name: str) -> Model:
    from ..config import ModelConfig

    return Model(name, ModelConfig.from_name(name), False, {}, {})


def _shipped(name: str) -> Model | None:
    """None if it is damaged, which is said."""
    from ..bundle import read_manifest
    from ..config import ModelConfig
    from ..loading import find_bundle

    path = find_bundle(name)
    try:
        manifest = read_manifest(path)
        config = ModelConfig.from_dict(manifest["config"])
        sizes = {file: (path / file).stat().st_size for file in manifest["files"]}
    except (BundleError, InputError, OSError) as error:
        say(f"{name} is left out: {error}")
        return None
    return Model(name, config, True, _psnr_y(manifest.get("figures")), sizes)


def _psnr_y(figures: Any) -> dict[str, float]:
    """Of each set; what a bundle's maker wrote there may be anything."""
    sets = figures.items() if isinstance(figures, dict) else ()
    known = {name: found.get("psnr_y") for name, found in sets if isinstance(found, dict)}
    return {name: value for name, value in known.items() if isinstance(value, (int, float))}


def _entry(one: Model) -> dict[str, Any]:
    return {
        "name": one.name,
        "parameters": one.config.parameters,
        "macs_per_lr_pixel": one.config.macs,
        "halo": one.config.halo,
        "shipped": one.shipped,
        "psnr_y": dict(one.psnr_y),
        "files": dict(one.files),
    }


def _print_shipped(models: list[Model]) -> None:
    sets = list(dict.fromkeys(name for one in models for name in one.psnr_y))[:4]
    graphs = {"FP32": "fp32.onnx", "FP16": "fp16.onnx", "INT8": "int8-cpu.onnx"}
    rows = [
        (
            one.name,
            *(f"{one.psnr_y[name]:.2f}" if name in one.psnr_y else "" for name in sets),
            *(_size(one.files.get(file)) for file in graphs.values()),
            _size(sum(one.files.values())),
        )
        for one in models
    ]
    header = ("model", *sets, *graphs, "all files")
    print_table("Weights that ship: PSNR on luma in FP32, dB; sizes of the graphs, kB", header, rows)


def _size(count: int | None) -> str:
    return "" if count is None else f"{count / 1000:,.0f}"
