"""``wdsr-edge models``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import ModelConfig
from ..loading import zoo_names
from .output import JsonFlag, print_json, print_table

LADDER = tuple(
    f"{arch}-{blocks}x{channels}-x{scale}"
    for scale in (2, 3, 4)
    for arch, channels in (("edsr", 64), ("wdsr-a", 32), ("wdsr-b", 32))
    for blocks in (1, 3, 5, 8)
)


def run(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Exact names; default: a ladder.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """List models: deployed parameters, multiply-accumulates for each LR pixel, halo, and whether weights ship."""
    shipped = zoo_names()
    configs = [ModelConfig.from_name(name) for name in names or sorted({*LADDER, *shipped}, key=_by_scale)]
    entries = [
        {
            "name": config.name,
            "parameters": config.parameters,
            "macs_per_lr_pixel": config.macs,
            "halo": config.halo,
            "shipped": config.name in shipped,
        }
        for config in configs
    ]
    if json:
        print_json(entries)
        return
    rows = [
        (
            config.name,
            f"{config.parameters:,}",
            f"{config.macs:,}",
            str(config.halo),
            "yes" if config.name in shipped else "",
        )
        for config in configs
    ]
    print_table("Models", ("model", "parameters", "MACs/LR pixel", "halo", "weights ship"), rows)


def _by_scale(name: str) -> tuple[int, str, int, int]:
    config = ModelConfig.from_name(name)
    return config.scale, config.arch, config.channels, config.blocks
