"""One image through standard input and output: the libraries behind read and write files, so it stays in one."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .._errors import InputError

STANDARD = "-"
"""The name of both on the command line; a file of that name is ./-."""
INPUTS = (STANDARD, "/dev/stdin", "/dev/fd/0")
OUTPUTS = (STANDARD, "/dev/stdout", "/dev/fd/1")
_CHUNK = 1 << 20


def check_output() -> None:
    """Raise InputError if an image cannot go to standard output; for use before long work."""
    if sys.__stdout__ is None:
        raise InputError("standard output is closed: name a file with --output")
    if sys.stdout.isatty():
        raise InputError("standard output is a terminal: redirect it, or name a file with --output")


@contextmanager
def input_file(largest: int) -> Iterator[Path]:
    """Standard input as a temporary file of at most ``largest`` bytes.

    Raises InputError if it is a terminal, empty, larger or not an image; it is not read on after that is seen.
    """
    from ..images.formats import format_of

    if sys.stdin is None:
        raise InputError("standard input is closed: name an image")
    if sys.stdin.isatty():
        raise InputError("standard input is a terminal: pipe an image into it, or name one")
    head = _first(sys.stdin.buffer)
    if not head:
        raise InputError("standard input is empty")
    if format_of(head) is None:
        raise InputError("standard input is not a PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC or GIF image")
    with _folder() as folder:
        path = folder / "input"
        _keep(head, path, largest)
        yield path


def _keep(head: bytes, path: Path, largest: int) -> None:
    """Write ``head`` and the rest of standard input to a file."""
    try:
        with open(path, "wb") as file:
            file.write(head)
            while chunk := sys.stdin.buffer.read(_CHUNK):
                if file.tell() + len(chunk) > largest:
                    raise InputError(f"standard input is larger than {largest} bytes: raise --max-pixels")
                file.write(chunk)
    except OSError as error:
        raise InputError(f"cannot keep standard input in {path}: {error.strerror or error}") from error


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="wdsr-edge-")
    except OSError as error:
        raise InputError(f"no temporary folder can be made ({error.strerror or error}): set TMPDIR") from error
    with folder as name:
        yield Path(name)


def _first(stream: BinaryIO) -> bytes:
    """The first bytes, which may come one by one."""
    from ..images.formats import HEAD

    head = b""
    while len(head) < HEAD and (more := stream.read(HEAD - len(head))):
        head += more
    return head


@contextmanager
def output_file(suffix: str) -> Iterator[Path]:
    """A path for an image; if a file is there in the end, it is written to standard output."""
    with _folder() as folder:
        path = folder / f"output{suffix}"
        yield path
        if path.exists():
            _give(path)


def _give(path: Path) -> None:
    """Write a file to standard output."""
    try:
        with open(path, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, _CHUNK)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        let_go()
        raise InputError(f"cannot write to standard output: {error.strerror or error}") from error


def let_go() -> None:
    """Nobody reads standard output any more: nothing is written to it when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
