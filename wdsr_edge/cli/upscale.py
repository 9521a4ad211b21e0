"""``wdsr-edge upscale``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import pipes
from .output import (
    BackendOption,
    DeviceOption,
    EngineOption,
    JsonFlag,
    PrecisionOption,
    ThreadsOption,
    count,
    print_json,
    printable,
    progress_bar,
    say,
    shortened,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..super_resolver import SuperResolver
    from ..upscale import Done, Job, Plan


def run(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders of them, or - for standard input.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="File, folder, or - for standard output; default: NAME_xSCALE."),
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A zoo name or a bundle directory.")] = "wdsr-b-3x32-x2",
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    format: Annotated[
        str, typer.Option(help="png, jpg, webp, avif, bmp or tif; default: as each input, for GIF and HEIC png.")
    ] = "",
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="Of JPEG, AVIF, and WebP that is not lossless; the rest is lossless.")
    ] = 95,
    lossless: Annotated[
        bool | None,
        typer.Option(
            "--lossless/--lossy", help="How WebP is written; default: lossless if the input was.", show_default=False
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Enter the subfolders of folders.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out images whose result is there, whatever made it.")
    ] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse images of more pixels than this.")] = 250_000_000,
    tile: Annotated[int, typer.Option(min=0, help="Core edge of a tile in LR pixels; 0 is automatic.")] = 0,
    device: DeviceOption = 0,
    engine: EngineOption = None,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Enlarge image files.

    Kept: transparency, 16 bits, resolution, colour profile, PNG's gAMA, cHRM, cICP and texts, EXIF, XMP, IPTC, comment,
    permissions.

    What the new format does not hold is named; colours of a profile that it does not hold are converted to sRGB.

    Not kept: thumbnails, gain maps, maker's own segments, PNG's bKGD, sBIT and private chunks, texts of over 1 MiB.

    A broken file among several is reported at the end and the rest is done (exit 1); alone, it is bad input (exit 2).
    """
    from .. import load
    from ..upscale import plan, upscale_files

    with ExitStack() as stack:
        names: dict[Path, str] = {}
        suffix = f".{format.lstrip('.')}" if format else ""
        sources, target = _places(inputs, output, suffix, json, max_pixels, names, stack)
        sr = stack.enter_context(
            load(
                model,
                backend=backend,  # type: ignore[arg-type]
                precision=precision,  # type: ignore[arg-type]
                device=device,
                engine=engine,
                tile=tile or "auto",
                threads=threads,
            )
        )
        planned = plan(
            sources,
            target,
            sr.scale,
            suffix=suffix,
            recursive=recursive,
            skip_existing=skip_existing,
            lossless=bool(lossless),
        )
        for note in planned.notes:
            say(note)
        done = list(planned.settled)
        try:
            with _bar(planned.jobs) as on_progress:
                for entry in upscale_files(
                    sr,
                    planned.jobs,
                    quality=quality,
                    lossless=lossless,
                    max_pixels=max_pixels,
                    on_progress=on_progress,
                ):
                    done.append(entry)
        finally:
            _report(done, planned, names, json, sr)
    if sr.chosen and not sr.chosen.asked and any(not entry.error for entry in done):
        say(str(sr.chosen))
    _end(done, names)


def _places(
    inputs: list[str],
    output: str | None,
    suffix: str,
    json: bool,
    max_pixels: int,
    names: dict[Path, str],
    stack: ExitStack,
) -> tuple[list[Path], Path | None]:
    """The inputs and the output as paths; standard input and output become temporary files, entered in ``names``."""
    from .. import InputError
    from ..images.formats import SUFFIXES, suffix_for

    if "" in inputs or output == "":
        raise InputError("an empty name is not a file: name an image")
    piped = any(name in pipes.INPUTS for name in inputs)
    if piped and len(inputs) > 1:
        raise InputError("- is one image from standard input: give no others with it")
    to_stdout = output in pipes.OUTPUTS or (piped and output is None)
    if to_stdout and json:
        raise InputError("--json and an image cannot both go to standard output: name a file with --output")
    if to_stdout and (len(inputs) > 1 or Path(inputs[0]).is_dir()):
        raise InputError("standard output takes one image: give --output a folder")
    if to_stdout:
        pipes.check_output()
    elif piped and output is not None and (Path(output).suffix.lower() not in SUFFIXES or Path(output).is_dir()):
        raise InputError(f"{output}: what comes from standard input has no name: give a file with an image suffix")
    sources = [Path(name) for name in inputs]
    if piped:
        sources = [stack.enter_context(pipes.input_file(8 * max_pixels + (64 << 20)))]
        names[sources[0]] = "standard input"
    if not to_stdout:
        return sources, None if output is None else Path(output)
    target = stack.enter_context(pipes.output_file(suffix or suffix_for(sources[0])))
    names[target] = "standard output"
    return sources, target


@contextmanager
def _bar(jobs: list[Job]) -> Iterator[Callable[[Job, float], None]]:
    """A bar that moves with each tile: what to call with a job and which part of it is done."""
    places = {job: index for index, job in enumerate(jobs)}
    with progress_bar() as bar:
        task = bar.add_task("upscale", total=len(jobs))
        yield lambda job, part: bar.update(
            task, completed=places[job] + part, description=shortened(printable(job.source.name), 30)
        )


def _report(done: list[Done], planned: Plan, names: dict[Path, str], json: bool, sr: SuperResolver) -> None:
    """Outcome of each image, also after an interruption."""
    total = len(planned.jobs) + len(planned.settled)
    if json:
        auto = None if sr.chosen is None or sr.chosen.asked else sr.chosen.document()
        ran = {"backend": sr.backend, "precision": sr.precision, "auto": auto}
        print_json(
            [
                {
                    "source": _name(entry.job.source, names),
                    "target": _name(entry.job.target, names),
                    "error": _plain(entry.error, names),
                    "notes": entry.notes,
                    "status": "failed" if entry.error else "skipped" if entry.skipped else "written",
                    **ran,
                }
                for entry in done
            ]
        )
    for entry in done:
        notes = f" ({'; '.join(entry.notes)})" if entry.notes else ""
        if not entry.error and not entry.skipped and (notes or entry.job.target not in names):
            say(f"wrote {names.get(entry.job.target, entry.job.target)}{notes}")
    skipped = sum(entry.skipped for entry in done)
    if skipped:
        say(f"skipped {count(skipped, 'image')}: the result is there")
    failed = [entry for entry in done if entry.error]
    if failed and total > 1:
        for entry in failed:
            say(f"failed: {_plain(entry.error, names)}")
        say(f"{len(failed)} of {count(total, 'image')} failed")
    if len(done) < total:
        say(f"{total - len(done)} of {count(total, 'image')} not done")


def _end(done: list[Done], names: dict[Path, str]) -> None:
    """The exit code, if it is not 0."""
    from .. import InputError

    failed = [entry for entry in done if entry.error]
    if failed and len(done) == 1:
        raise InputError(_plain(failed[0].error, names))
    if failed:
        raise typer.Exit(1)


def _name(path: Path, names: dict[Path, str]) -> str:
    return pipes.STANDARD if path in names else str(path)


def _plain(text: str, names: dict[Path, str]) -> str:
    """``text`` without the temporary files of standard input and output."""
    for path, name in names.items():
        text = text.replace(str(path), name)
    return text
