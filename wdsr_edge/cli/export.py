"""``wdsr-edge export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._errors import InputError
from .output import JsonFlag, ModelArgument, print_json, print_table, say
from .sizes import parse_size


def run(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")],
    io: Annotated[str, typer.Option(help="uint8 (NHWC frames) or float32 (NCHW in [0, 1], for embedding).")] = "uint8",
    precision: Annotated[str, typer.Option(help="fp32 or fp16; wdsr-edge calibrate makes INT8.")] = "fp32",
    size: Annotated[str, typer.Option(help="Fix the LR frame to WIDTHxHEIGHT; default: any size.")] = "",
    json: JsonFlag = False,
) -> None:
    """Fold a network and write its deploy graph as ONNX, saying what each graph pass saved."""
    from wdsr_export import export_onnx

    from ..models import load_model

    if io not in ("uint8", "float32"):
        raise InputError(f"--io must be uint8 or float32, got {io!r}")
    if precision not in ("fp32", "fp16"):
        raise InputError(f"--precision must be fp32 or fp16, got {precision!r}")
    fixed = parse_size(size) if size else None
    savings = export_onnx(load_model(model), output, precision=precision, io=io, size=fixed)  # type: ignore[arg-type]
    if json:
        print_json({"output": str(output), "passes": [saving._asdict() for saving in savings]})
        return
    rows = [(saving.name, f"{saving.nodes:+d}", saving.detail) for saving in savings]
    print_table("Graph passes", ("pass", "nodes saved", "what"), rows, figures=False)
    say(f"wrote {output}")
