"""The experiments of the WDSR paper, small: wide activation against EDSR, and weight norm against the others.

Run: python -m benchmarks.paper --data DIR... --validation DIR --test DIR... -o FOLDER [--blocks 1 --blocks 3]

Every network is trained at x4 by the paper's recipe (Adam, L1, batch 16, 96 HR pixels a side, the learning rate halved
three times on the way), for --steps steps in all; a run that was stopped goes on. --amp is for the architectures: norms
are compared in float32. FOLDER gets the runs, and at the end paper.md with the tables and paper.png with the curves.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from wdsr_edge.config import ModelConfig, Norm
from wdsr_edge.data.pairs import Pair, bicubic, load_pairs
from wdsr_edge.evaluation import evaluate, mean_score
from wdsr_edge.models import load_checkpoint, reference
from wdsr_edge.training import ImageCache, Progress, TrainConfig, open_pairs, train
from wdsr_edge.training.recipe import CHOICES, Amp

SCALE = 4
NORMS: tuple[Norm, ...] = ("weight", "batch", "none")
RATES = (1e-4, 1e-3, 5e-3)
PUBLISHED = {
    "edsr": {1: 33.210, 3: 34.043, 5: 34.284, 8: 34.457},
    "wdsr-a": {1: 33.323, 3: 34.163, 5: 34.388, 8: 34.541},
    "wdsr-b": {1: 33.434, 3: 34.205, 5: 34.409, 8: 34.536},
}
"""PSNR on RGB at x2 on DIV2K's validation images, dB, by blocks (the table in github.com/JiahuiYu/wdsr_ntire2018).

Its parameters are those of EDSR with 64 and of WDSR-A with 32 channels (ten times too many are printed); its WDSR-B is
wider than ours, with as many as its WDSR-A.
"""


@dataclass(frozen=True)
class Experiment:
    """One network to train."""

    config: ModelConfig
    rate: float
    amp: Amp = "off"

    @property
    def name(self) -> str:
        return f"{self.config.name}-{self.config.norm}-{self.rate:g}" + f"-{self.amp}" * (self.amp != "off")


def of_sizes(blocks: Sequence[int], amp: Amp) -> list[Experiment]:
    names = [f"{arch}-x{SCALE}" for count in blocks for arch in (f"edsr-{count}x64", f"wdsr-a-{count}x32")]
    names += [f"wdsr-b-{count}x32-x{SCALE}" for count in blocks]
    return [Experiment(ModelConfig.from_name(name), 1e-3, amp) for name in names]


def of_norms() -> list[Experiment]:
    config = ModelConfig.from_name(f"wdsr-b-3x32-x{SCALE}")
    return [Experiment(replace(config, norm=norm), rate) for norm in NORMS for rate in RATES]


def run(experiment: Experiment, steps: int, pairs: list[Pair], validation: list[Pair], folder: Path) -> None:
    recipe = TrainConfig(
        steps=steps,
        patch=96 // SCALE,
        learning_rate=experiment.rate,
        amp=experiment.amp,
        halve_every=max(1, steps // 4),
        save_every=max(1, steps // 20),
        validate_every=max(1, steps // 20),
    )

    def report(progress: Progress) -> None:
        print(f"{experiment.name} {progress.step}: {progress.psnr_y:.3f} dB, {progress.seconds:.0f} s", flush=True)

    train(experiment.config, recipe, pairs, validation, folder / experiment.name, on_report=report)


def curve(folder: Path, experiment: Experiment) -> list[Progress]:
    with open(folder / experiment.name / "log.csv", newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [Progress(**{**row, "step": int(row["step"])}) for row in rows]  # type: ignore[arg-type]


def table_of_sizes(folder: Path, sizes: Sequence[Experiment], tests: dict[str, list[Pair]]) -> list[str]:
    lines = [
        f"| network | parameters | {' | '.join(tests)} | minutes | published, x2 |",
        f"|---|---|{'---|' * len(tests)}---|---|",
        f"| bicubic | | {' | '.join(f'{baseline(pairs):.2f}' for pairs in tests.values())} | | |",
    ]
    for experiment in sorted(sizes, key=lambda experiment: experiment.config.blocks):
        config = experiment.config
        upscale = reference(load_checkpoint(folder / experiment.name / "last.safetensors"))
        scores = [f"{mean_score(evaluate(upscale, pairs)).psnr_y:.2f}" for pairs in tests.values()]
        minutes = f"{curve(folder, experiment)[-1].seconds / 60:.0f}"
        published = PUBLISHED[config.arch].get(config.blocks)
        shown = f"{published:.2f}" if published else ""
        lines.append(f"| {config.name} | {config.parameters:,} | {' | '.join(scores)} | {minutes} | {shown} |")
    return lines


def baseline(pairs: list[Pair]) -> float:
    return mean_score(evaluate(lambda lr: bicubic(lr, SCALE), pairs)).psnr_y


def table_of_norms(folder: Path, norms: Sequence[Experiment]) -> list[str]:
    lines = [
        "| norm | learning rate | last loss | last PSNR | worst PSNR of the second half | largest fall between two |",
        "|---|---|---|---|---|---|",
    ]
    for experiment in norms:
        points = curve(folder, experiment)
        found = [progress.psnr_y for progress in points]
        half = found[len(found) // 2 :]
        fall = max(0.0, *(before - after for before, after in pairwise(half)))
        lines.append(
            f"| {experiment.config.norm} | {experiment.rate:g} | {points[-1].loss:.2f} "
            f"| {found[-1]:.2f} | {min(half):.2f} | {fall:.2f} |"
        )
    return lines


def draw(folder: Path, compared: dict[str, list[Experiment]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (sizes, norms) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for axes, experiments, title in (
        (sizes, compared["sizes"], "Wide activation against EDSR"),
        (norms, compared["norms"], "WDSR-B, 3 blocks: norm and learning rate"),
    ):
        for experiment in experiments:
            found = curve(folder, experiment)
            label = experiment.config.name if axes is sizes else f"{experiment.config.norm}, {experiment.rate:g}"
            style = {"edsr": ":", "wdsr-a": "--"}.get(experiment.config.arch, "-")
            if axes is norms:
                style = {"batch": "--", "none": ":"}.get(experiment.config.norm, "-")
            axes.plot([p.step for p in found], [p.psnr_y for p in found], style, label=label)
        axes.set(title=title, xlabel="step", ylabel="validation PSNR on Y, dB")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    top = norms.get_ylim()[1]
    norms.set_ylim(top - 8, top)  # an unstable run may fall to nothing
    figure.savefig(folder / "paper.png", dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--test", type=Path, action="append", required=True)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--blocks", type=int, action="append", help="1 and 3 by default; the paper has 5 and 8 as well")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--amp", choices=CHOICES["Amp"], default="off", help="precision where norms are not compared")
    parser.add_argument("--part", choices=("sizes", "norms"), help="only train these, so that two machines share it")
    arguments = parser.parse_args()
    blocks = sorted(arguments.blocks or [1, 3])
    cache = ImageCache(arguments.output / "cache")
    pairs = open_pairs(arguments.data, SCALE, cache, least=96 // SCALE)
    validation = load_pairs([arguments.validation], SCALE)
    experiments = {"sizes": of_sizes(blocks, arguments.amp), "norms": of_norms()}
    for part, members in experiments.items():
        for experiment in members if arguments.part in (None, part) else []:
            run(experiment, arguments.steps, pairs, validation, arguments.output)
    if arguments.part:
        return
    tests = {folder.name: load_pairs([folder], SCALE) for folder in arguments.test}
    report = [
        "# The paper's experiments at x4, small",
        "",
        f"{len(pairs)} images, {arguments.steps} steps of batch 16, seed 0, torch {torch.__version__}, "
        f"{platform.machine()} with {torch.get_num_threads()} threads. The paper trains on 800 images of 2K, on GPUs: "
        "the order of the networks can be compared with it, the decibels cannot.",
        "",
        f"    python -m benchmarks.paper {' '.join(sys.argv[1:])}",
        "",
        "## Wide activation against EDSR",
        "",
        "PSNR on Y in dB. Published: the authors' PSNR on RGB at x2 on DIV2K's validation images; their WDSR-B is "
        "wider, with the parameters of their WDSR-A.",
        "",
        *table_of_sizes(arguments.output, experiments["sizes"], tests),
        "",
        "## Norms",
        "",
        f"wdsr-b-3x32-x4 on {arguments.validation.name}, PSNR on Y in dB, every {arguments.steps // 20} steps; the "
        "loss is L1 on 0..255, with the statistics of the batch where there are any.",
        "",
        *table_of_norms(arguments.output, experiments["norms"]),
        "",
        "![Training curves](paper.png)",
    ]
    (arguments.output / "paper.md").write_text("\n".join(report) + "\n", encoding="utf-8")
    draw(arguments.output, experiments)
    print("\n".join(report))


if __name__ == "__main__":
    main()
