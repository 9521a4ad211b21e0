"""``wdsr-edge evaluate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .output import JsonFlag, ModelArgument, print_json, print_table, progress_bar, say


def run(
    model: ModelArgument,
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="High-resolution images.")],
    json: JsonFlag = False,
) -> None:
    """PSNR and SSIM against ground truth, with bicubic beside it, as papers report them."""
    from .. import load
    from ..evaluation import Score, bicubic, evaluate, load_pairs, mean_score
    from ..loading import is_checkpoint

    if is_checkpoint(model):
        from ..models import load_checkpoint, reference

        network = load_checkpoint(model)
        scale, upscale = network.config.scale, reference(network)
    else:
        upscale = load(model)
        scale = upscale.scale
    report: dict[str, dict[str, list[Score]]] = {}
    for folder in folders:
        pairs = load_pairs([folder], scale, on_left_out=lambda path: say(f"{path} is too small: left out"))
        with progress_bar() as bar:
            scores = evaluate(upscale, bar.track(pairs, description=folder.name))
        plain = evaluate(lambda lr: bicubic(lr, scale), pairs)
        report[str(folder)] = {"images": scores, "mean": [mean_score(scores)], "bicubic": [mean_score(plain)]}
    if json:
        print_json({f: {k: [asdict(s) for s in v] for k, v in found.items()} for f, found in report.items()})
        return
    for name, found in report.items():
        rows = [
            (kind if kind != "images" else s.name, f"{s.psnr_y:.2f}", f"{s.psnr_rgb:.2f}", f"{s.ssim_y:.4f}")
            for kind, scores in found.items()
            for s in scores
        ]
        print_table(f"{model} on {name}", ("image", "PSNR Y", "PSNR RGB", "SSIM Y"), rows)
