"""Output: tables or one JSON document on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A zoo name, a bundle directory or a checkpoint.")]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        help="auto, tensorrt, tensorrt-rtx, onnxruntime-cuda, onnxruntime-tensorrt, onnxruntime or openvino; "
        "auto is the fastest measured here.",
    ),
]
EngineOption = Annotated[
    Path | None,
    typer.Option("--engine", help="A compiled engine in a file that you vouch for, as it is native code; for a GPU."),
]
DeviceOption = Annotated[int, typer.Option("--device", min=0, help="GPU, as CUDA numbers them.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        help="Threads of a CPU backend; default: WDSR_EDGE_THREADS, else one for each core.",
        show_default=False,
    ),
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace a bundle of other weights at the output.")]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="auto, fp32, fp16 or int8; auto is the fastest measured here.")
]
BundleArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A zoo name or a bundle directory.")]

_LEAST = 20
"""Columns that a wrapped column of a table must have."""
_LEAST_NAME = 16
"""Columns that a file's name gets in a table, however narrow the terminal is."""

if sys.stdout is None:  # closed by whoever started us
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):  # names of files may hold what a console's encoding lacks
        _stream.reconfigure(errors="backslashreplace")
if os.environ.get("COLUMNS", "80").strip("0") == "":  # for which rich prints nothing at all
    del os.environ["COLUMNS"]
stdout = Console(highlight=False, soft_wrap=not sys.stdout.isatty())  # a file takes lines of any length
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line on stderr, as it is."""
    stderr.print(printable(text), markup=False)


def printable(text: str) -> str:
    """``text`` with line breaks and control characters escaped: file names may hold anything."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns of a terminal: what is too long loses its middle, and keeps its end."""
    if cell_len(text) <= width:
        return text
    front, end = "", ""
    for letter in text[:width]:
        if cell_len(front + letter) > (width - 1) // 2:
            break
        front += letter
    for letter in reversed(text[len(front) :]):
        if cell_len(front + "…" + letter + end) > width:
            break
        end = letter + end
    return f"{front}…{end}"


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_json(document: Any) -> None:
    """``document`` on stdout."""
    sys.stdout.write(json_text(document))


def json_text(document: Any) -> str:
    """``document`` as JSON; infinities as the string ``inf``, which JSON has no number for."""
    return json.dumps(_plain(document), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def print_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    figures: bool = True,
    files: int | None = None,
) -> None:
    """A table on stdout; the first column is text, the others are figures, or text as well.

    It fits the terminal, or COLUMNS, or 80 columns where neither is known; words stay whole. ``files`` is the column
    that holds names of files: on a terminal, those that do not fit lose their middle, so that they take a line each.
    Elsewhere they are whole.
    """
    width = max(40, stdout.width)
    cells = [[printable(cell) for cell in row] for row in rows]
    if files is not None and not stdout.soft_wrap:
        room = _room(header, cells, width, files)
        for row in cells:
            row[files] = shortened(row[files], room)
    stdout.print(Text(printable(title), style="italic"), soft_wrap=True)
    for line, style in _lines(header, cells, width, figures, files):
        stdout.print(Text(line.rstrip(), style=style), soft_wrap=True)


def _room(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, files: int) -> int:
    """Columns that are left for names of files."""
    others = (max(map(cell_len, cells)) + 2 for i, cells in enumerate(zip(header, *rows, strict=True)) if i != files)
    return max(width - sum(others), _LEAST_NAME)


def _lines(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, figures: bool, files: int | None = None
) -> Iterator[tuple[str, str]]:
    """Lines and their style: columns, with the header or one column wrapped if need be; else a paragraph for a row."""
    body = [max((cell_len(row[i]) for row in rows), default=0) for i in range(len(header))]
    if files is not None:
        body[files] = min(body[files], _room(header, rows, width, files))
    whole = [max(size, cell_len(name)) for size, name in zip(body, header, strict=True)]
    least = [max(size, *map(cell_len, name.split() or [""])) for size, name in zip(body, header, strict=True)]
    flexible = 0 if figures else len(header) - 1
    for widths, gap in ((whole, 2), (whole, 1), (least, 2), (least, 1)):
        if sum(widths) + gap * (len(widths) - 1) <= width:
            break
    else:
        widths, gap = least, 2
        widths[flexible] = width - sum(widths) + widths[flexible] - gap * (len(widths) - 1)
        if widths[flexible] < _LEAST:
            yield from _paragraphs(header, rows, width)
            return
    for number, row in enumerate([header, *rows]):
        parts = [
            [cell] if number and column == files else _wrapped(cell, size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        if number and figures and files is None and any(cell_len(part) > widths[0] for part in parts[0]):
            yield row[0], ""
            parts[0] = [""]
        height = max(map(len, parts))
        for i in range(height):
            cells = [part[i] if i < len(part) else "" for part in parts]
            padded = [
                " " * (size - cell_len(cell)) + cell if figures and column else cell + " " * (size - cell_len(cell))
                for column, (cell, size) in enumerate(zip(cells, widths, strict=True))
            ]
            yield (" " * gap).join(padded), "" if number else "bold"


def _paragraphs(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[tuple[str, str]]:
    for first, *others in rows:
        yield first, "bold"
        line = " "
        for name, cell in zip(header[1:], others, strict=True):
            item = f" {name} {cell};" if cell else ""
            if line.strip() and cell_len(line + item) > width:
                yield line, ""
                line = " "
            line += item
        yield line.rstrip(";"), ""


def _wrapped(text: str, width: int) -> list[str]:
    """In lines of that many columns, if words are not longer."""
    if cell_len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def progress_bar() -> Progress:
    """A progress bar on stderr, only on a terminal."""
    return _bar(MofNCompleteColumn(), TimeRemainingColumn())


@contextmanager
def stages_bar(name: str) -> Iterator[tuple[Callable[[str, int], None], Callable[[], None]]]:
    """Long work in stages, a line and a bar for each: what to call for a stage of so many steps, and for a step."""
    with progress_bar() as bar:
        task = bar.add_task(name, total=None)

        def on_stage(stage: str, total: int) -> None:
            say(f"{name}: {stage}")
            bar.reset(task, description=stage, total=total)

        yield on_stage, lambda: bar.advance(task)


@contextmanager
def build_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for the phases of a build: what to call with a phase's name, the steps done, and how many there are."""
    with progress_bar() as bar:
        task = bar.add_task("compile", total=None)
        yield lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total)


def byte_bar() -> Progress:
    """A progress bar on stderr that counts bytes, only on a terminal."""
    return _bar(DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())


def _bar(*columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=stderr,
        disable=not stderr.is_terminal,
        transient=True,
    )


def decibels(value: float) -> str:
    """A PSNR for a table."""
    return "equal" if math.isinf(value) else f"{value:.2f} dB"
