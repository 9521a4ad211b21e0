"""``wdsr-edge blend``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._errors import InputError
from .output import say


def run(
    first: Annotated[str, typer.Argument(metavar="A", help="A checkpoint, bundle or zoo name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="One that was trained from A, or A from it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The checkpoint to write (.safetensors).")],
    share: Annotated[float, typer.Option(help="How much of B there is in it, from 0 to 1.")] = 0.5,
) -> None:
    """Mix two networks of the same shape: a knob between, say, a sharp and a denoising one, at no cost in time.

    wdsr-edge deploy makes a bundle of what is written.
    """
    from ..models import blend, load_model, save_checkpoint

    if output.suffix != ".safetensors":
        raise InputError(f"--output must end with .safetensors, got {output.name!r}")
    save_checkpoint(blend(load_model(first), load_model(second), share), output)
    say(f"wrote {output}: {1 - share:.0%} {first}, {share:.0%} {second}")
