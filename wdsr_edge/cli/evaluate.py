"""``wdsr-edge evaluate``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .._errors import InputError
from .output import (
    BackendOption,
    JsonFlag,
    ModelArgument,
    PrecisionOption,
    ThreadsOption,
    count,
    print_json,
    print_table,
    printable,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from ..evaluation import Score, Upscale
    from ..robustness import Figures


class Report(NamedTuple):
    """Results of one set."""

    images: list[Score]
    bicubic: list[Score]
    unreadable: list[str]
    """Error of each image that could not be read."""


def run(
    model: ModelArgument,
    sets: Annotated[
        list[str], typer.Argument(metavar="SET...", help="Folders of high-resolution images, or names such as Set5.")
    ],
    datasets: Annotated[
        Path | None, typer.Option(help="Folder where sets are found by name; default: $WDSR_EDGE_DATA.")
    ] = None,
    ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="Mean over the eight flips and rotations: 8 times as slow.")
    ] = False,
    degrade: Annotated[
        str,
        typer.Option(help="Make LR pictures in these ways, such as jpeg:50,h264:28,area+noise:5; a table with all."),
    ] = "",
    device: Annotated[str, typer.Option(help="Where a checkpoint runs, as torch names it: cpu, cuda, cuda:1.")] = "cpu",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    csv: Annotated[bool, typer.Option("--csv", help="One line for each image on stdout.")] = False,
    json: JsonFlag = False,
) -> None:
    """PSNR and SSIM against ground truth as papers report them, bicubic beside it.

    The LR images are those that lie in the set's folder (DIV2K, EDSR's or SelfExSR's layout), else MATLAB's bicubic. A
    checkpoint of train --quantize is scored in floating point; its bundle has INT8 as well (--precision int8). An image
    that cannot be read is named and passed over; the exit code is then 1.

    With --degrade, LR pictures are made of the set as cameras and codecs make them, in each of the ways named, with
    commas between them; steps of a way are joined by +. Lenses: blur:SIGMA, defocus:RADIUS; resizes: bicubic, cubic,
    area, bilinear, lanczos, decimation; then sharpen:AMOUNT, noise:SIGMA, sensor:READ:SHOT, bayer:READ:SHOT, chroma,
    jpeg:QUALITY, h264:CRF, h265:CRF. An image that cannot be read is then an error.
    """
    from ..data.layouts import find_dataset
    from ..evaluation import mean_score, self_ensemble
    from ..images.degradation import Degradation

    if csv and json:
        raise InputError("--csv and --json exclude each other")
    ways = degrade.split(",") if degrade else []
    if ways and csv:
        raise InputError("--degrade prints a table or --json, no --csv")
    for way in ways:
        Degradation.parse(way)
    folders = {name: find_dataset(name, datasets) for name in sets}
    with _opened(model, device, backend, precision, threads) as (scale, upscale):
        chosen = self_ensemble(upscale) if ensemble else upscale
        if ways:
            found_by_set = {name: _degraded(name, folder, scale, chosen, ways) for name, folder in folders.items()}
            _print_degraded(model, found_by_set, json)
            return
        reports = {name: _evaluate(name, folder, scale, chosen) for name, folder in folders.items()}
    if csv:
        _print_csv(reports)
    elif json:
        print_json(
            {
                name: {
                    "images": [asdict(entry) for entry in found.images],
                    "mean": asdict(mean_score(found.images)),
                    "bicubic": asdict(mean_score(found.bicubic)),
                    **({"unreadable": found.unreadable} if found.unreadable else {}),
                }
                for name, found in reports.items()
            }
        )
    else:
        for name, found in reports.items():
            _print(f"{model} on {name}{', self-ensemble' if ensemble else ''}", found)
    failed = sum(len(found.unreadable) for found in reports.values())
    if failed:
        say(f"{count(failed, 'image')} could not be read, and the means are without")
        raise typer.Exit(1)


@contextmanager
def _opened(
    model: str, device: str, backend: str, precision: str, threads: int | None
) -> Iterator[tuple[int, Upscale]]:
    """Scale of a checkpoint, bundle or zoo model, and what makes its images."""
    from .. import load
    from ..loading import is_checkpoint

    if is_checkpoint(model):
        from ..models import load_checkpoint, reference
        from ..models.reference import use_threads
        from ..training import open_device

        if (backend, precision) != ("auto", "fp32"):
            raise InputError("--backend and --precision are for bundles; a checkpoint runs in PyTorch as it is")
        use_threads(threads)
        network = load_checkpoint(model).to(open_device(device))
        yield network.config.scale, reference(network)
        return
    if device != "cpu":
        raise InputError("--device is for checkpoints; a bundle runs where its engine does")
    with load(model, backend=backend, precision=precision, threads=threads) as resolver:  # type: ignore[arg-type]
        yield resolver.scale, resolver


def _evaluate(name: str, folder: Path, scale: int, upscale: Upscale) -> Report:
    from ..data.layouts import list_pairs
    from ..data.pairs import bicubic, read_pairs
    from ..evaluation import score

    report = Report([], [], [])

    def skip(path: Path, reason: str) -> None:
        report.unreadable.append(reason)
        if len(files) > 1:
            say(f"{reason}: passed over")

    files = list_pairs(folder, scale)
    with progress_bar() as bar:
        tracked = bar.track(files, description=name)
        pairs = read_pairs(
            tracked, scale, on_left_out=lambda path, reason: say(f"{reason}: left out"), on_unreadable=skip
        )
        for pair in pairs:
            report.images.append(score(pair, upscale(pair.lr)))
            report.bicubic.append(score(pair, bicubic(pair.lr, scale)))
    if not report.images:
        only = report.unreadable[0] if len(files) == 1 and report.unreadable else ""
        which = "that can be read and is large enough" if report.unreadable else "that is large enough"
        raise InputError(only or f"no image {which} in {folder}")
    given = {file.lr is not None for file in files}
    origin = {True: "from its files", False: "by exact bicubic"}
    found = " or ".join(origin[known] for known in (True, False) if known in given)
    say(f"{name}: {count(len(report.images), 'image')}, LR {found}")
    return report


def _degraded(name: str, folder: Path, scale: int, upscale: Upscale, ways: list[str]) -> dict[str, dict[str, Figures]]:
    """Scores of the model, of bicubic and of Lanczos, for each way."""
    from ..data.pairs import load_pairs
    from ..robustness import compare

    with progress_bar() as bar:
        pairs = load_pairs([folder], scale, on_left_out=lambda path, reason: say(f"{reason}: left out"))
        tracked = bar.track(ways, description=name)
        found = {way: compare({"model": upscale}, pairs, way, scale) for way in tracked}
    say(f"{name}: {count(len(pairs), 'image')}, degraded in {count(len(ways), 'way')}")
    return found


def _print_degraded(model: str, found: dict[str, dict[str, dict[str, Figures]]], json: bool) -> None:
    if json:
        print_json(
            {
                name: {
                    way: {
                        what: {
                            "mean": asdict(one.mean),
                            "lost": list(one.lost),
                            "images": list(map(asdict, one.images)),
                        }
                        for what, one in figures.items()
                    }
                    for way, figures in by_way.items()
                }
                for name, by_way in found.items()
            }
        )
        return
    for name, by_way in found.items():
        rows = []
        for way, figures in by_way.items():
            means = [figures[what].mean for what in ("model", "bicubic", "Lanczos")]
            ours = figures["model"]
            rows.append(
                (
                    way,
                    *(f"{mean.psnr_y:.2f}" for mean in means),
                    *(f"{mean.ssim_y:.4f}" for mean in means),
                    f"{len(ours.lost)}/{len(ours.images)}",
                )
            )
        header = ("LR", "PSNR Y", "bicubic", "Lanczos", "SSIM Y", "bicubic", "Lanczos", "lost")
        print_table(f"{model} on {name}, degraded", header, rows)


def _print(title: str, report: Report) -> None:
    from ..evaluation import mean_score

    scores = [*report.images, mean_score(report.images), mean_score(report.bicubic)]
    names = [*(entry.name for entry in report.images), "mean", "bicubic"]
    rows = [
        (name, f"{s.psnr_y:.2f}", f"{s.psnr_rgb:.2f}", f"{s.ssim_y:.4f}", f"{s.ssim_rgb:.4f}")
        for name, s in zip(names, scores, strict=True)
    ]
    print_table(title, ("image", "PSNR Y", "PSNR RGB", "SSIM Y", "SSIM RGB"), rows, files=0)


def _print_csv(reports: dict[str, Report]) -> None:
    from ..evaluation import Score, mean_score

    writer = csv.writer(sys.stdout, lineterminator="\n")
    figures = [field.name for field in fields(Score)[1:]]
    writer.writerow(["set", "image", *figures, *(f"bicubic_{figure}" for figure in figures)])
    for name, report in reports.items():
        images, plain = [*report.images, mean_score(report.images)], [*report.bicubic, mean_score(report.bicubic)]
        for ours, theirs in zip(images, plain, strict=True):
            writer.writerow([printable(name), printable(ours.name), *astuple(ours)[1:], *astuple(theirs)[1:]])
