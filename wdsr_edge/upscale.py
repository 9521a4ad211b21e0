"""Image files enlarged: which file goes where, and each done on its own so that one bad file stops nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ._errors import InputError, WdsrError
from .formats import SUFFIXES, suffix_for
from .image_folders import list_images
from .image_writing import check_lossless
from .images import check_writable, read_picture, write_picture
from .super_resolver import SuperResolver


class Job(NamedTuple):
    """One image to enlarge."""

    source: Path
    target: Path


class Done(NamedTuple):
    """How a job ended."""

    job: Job
    error: str
    """Why it failed, in one line; empty if the target was written."""
    notes: tuple[str, ...] = ()
    """What of the source the target's format does not hold."""


def plan(
    inputs: Sequence[Path], output: Path | None, scale: int, *, suffix: str = "", lossless: bool = False
) -> list[Job]:
    """Where each image goes. Files of a folder (not of its subfolders) keep their names.

    ``output`` is a file for a single input file (if it has an image suffix), else a folder; None puts NAME_xSCALE
    beside a file. ``suffix``, such as ``.png``, changes the format; ``lossless`` refuses one that is always lossy.
    Raises InputError if an input is missing, two would be written to one file, or one would be written over an input.
    """
    if suffix and suffix.lower() not in SUFFIXES:
        raise InputError(f"{suffix!r} is no image format: choose one of {', '.join(sorted(SUFFIXES))}")
    if output is None and any(path.is_dir() for path in inputs):
        raise InputError("a folder of images needs an output folder: give --output")
    single_file = output is not None and output.suffix.lower() in SUFFIXES and not output.is_dir()
    if single_file and (len(inputs) != 1 or inputs[0].is_dir()):
        raise InputError(f"{output} is one file, but there are more images: give a folder")
    if single_file and output is not None and suffix and output.suffix.lower() != suffix.lower():
        raise InputError(f"{output} is no {suffix} file: leave the format out, or name the file so")
    one_file = len(inputs) == 1 and inputs[0].is_file()
    if output is not None and one_file and not single_file and output.suffix and not output.is_dir():
        raise InputError(
            f"{output}: unknown suffix, use one of {' '.join(sorted(SUFFIXES))}; or make that folder first"
        )
    jobs = []
    for source in (source for path in inputs for source in list_images(path)):
        name = source.stem + (suffix or suffix_for(source))
        if output is None:
            target = source.with_name(f"{source.stem}_x{scale}{suffix or suffix_for(source)}")
        else:
            target = output if single_file else output / name
        jobs.append(Job(source, target))
    sources = {job.source.resolve() for job in jobs}
    seen: dict[Path, Path] = {}
    for source, target in jobs:
        place = target.resolve()
        if place in sources:
            raise InputError(f"{target} is an input and would be lost: choose another --output")
        if place in seen:
            raise InputError(f"{seen[place]} and {source} would both become {target}: rename one")
        seen[place] = source
        if lossless:
            check_lossless(target)
    return jobs


def upscale_files(
    sr: SuperResolver, jobs: Sequence[Job], *, quality: int = 95, lossless: bool | None = None
) -> Iterator[Done]:
    """Do the jobs in order, yielding how each ended; a file that fails leaves its target as it was."""
    for job in jobs:
        try:
            notes = upscale_file(sr, job, quality=quality, lossless=lossless)
        except (WdsrError, MemoryError) as error:
            yield Done(job, str(error) or "out of memory")
        else:
            yield Done(job, "", notes)


def upscale_file(sr: SuperResolver, job: Job, *, quality: int = 95, lossless: bool | None = None) -> tuple[str, ...]:
    """Read, enlarge and write one image, with all that ``write_picture`` keeps; what it does not is returned, in words.

    ``lossless`` makes a WebP so, or not; None keeps it as it was.
    """
    picture = read_picture(job.source)
    height, width = picture.pixels.shape[:2]
    size = (width * sr.scale, height * sr.scale)
    alpha = picture.pixels.ndim == 3 and picture.pixels.shape[2] == 4
    deep = picture.pixels.dtype == np.uint16
    check_writable(job.target, size=size, alpha=alpha, deep=deep, lossless=bool(lossless))
    big = sr(picture.pixels)
    return write_picture(job.target, dataclasses.replace(picture, pixels=big), quality=quality, lossless=lossless)
