"""Which image goes where: inputs to jobs, before anything is read or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ._errors import InputError
from ._files import check_name, place_of
from .images.folders import find_images, require_images
from .images.formats import SUFFIXES, suffix_for
from .images.writing import check_lossless

_PACKAGE = Path(__file__).resolve().parent


class Job(NamedTuple):
    """One image to enlarge."""

    source: Path
    target: Path


class Done(NamedTuple):
    """Outcome of a job."""

    job: Job
    error: str
    """Why it failed, in one line; empty if the target was written, or was there before."""
    notes: tuple[str, ...] = ()
    """Parts of the source that the target's format cannot hold."""
    skipped: bool = False
    """The target was there before, and is left as it is."""


@dataclass(frozen=True)
class Plan:
    """The planned work."""

    jobs: list[Job]
    settled: list[Done] = field(default_factory=list)
    """Jobs that need no work: their target is there, or their folder cannot be opened."""
    notes: list[str] = field(default_factory=list)
    """Files passed over, a line for each folder and kind."""


class _Source(NamedTuple):
    """An image, and where below the output folder its result goes."""

    path: Path
    below: Path


def plan(
    inputs: Sequence[Path],
    output: Path | None,
    scale: int,
    *,
    suffix: str = "",
    recursive: bool = False,
    skip_existing: bool = False,
    lossless: bool = False,
) -> Plan:
    """Where each image goes. Files of a folder, and with ``recursive`` of its subfolders, keep their names and places.

    ``output`` is a file for a single input file (if it has an image suffix), else a folder; None puts NAME_xSCALE
    beside a file, or in the current folder if the file is one that ships with this package. ``suffix``, such as
    ``.png``, changes the format; without it GIF and HEIC become PNG. ``lossless`` refuses one that is always lossy.
    Where two images would get one name by that, the second keeps its old suffix in it: ``a.gif.png``. Below ``output``
    nothing is searched for images.

    With ``skip_existing`` an image whose target is a file already is settled, and so is an input that is itself the
    result of another. Raises InputError if an input is missing, two would be written to one file, or one would be
    written over an input.
    """
    _check_output(inputs, output, suffix)
    single_file = output is not None and output.suffix.lower() in SUFFIXES and not output.is_dir()
    notes: list[str] = []
    settled: list[Done] = []
    sources: list[_Source] = []
    for path in inputs:
        sources.extend(_images(path, output, recursive, notes, settled))
    jobs = []
    if single_file and output is not None:
        jobs = [Job(source.path, output) for source in sources]
    else:
        jobs = _named(sources, output, "" if output is not None else f"_x{scale}", suffix)
    for job in jobs:
        check_name(job.target)
    jobs = _distinct(jobs)
    if lossless:
        for job in jobs:
            check_lossless(job.target)
    return _without_existing(jobs, settled, notes, skip_existing)


def _check_output(inputs: Sequence[Path], output: Path | None, suffix: str) -> None:
    """Raise InputError if ``output`` or the format does not fit the inputs."""
    known = ", ".join(sorted(SUFFIXES))
    if suffix and suffix.lower() not in SUFFIXES:
        raise InputError(f"{suffix!r} is not an image format that is written: choose one of {known}")
    if output is None:
        if any(path.is_dir() for path in inputs):
            raise InputError("a folder of images needs an output folder: give --output")
        return
    single_file = output.suffix.lower() in SUFFIXES and not output.is_dir()
    if single_file and (len(inputs) != 1 or inputs[0].is_dir()):
        raise InputError(f"{output} is one file, but there are more images: give a folder")
    if single_file and suffix and output.suffix.lower() != suffix.lower():
        raise InputError(f"{output} is not a {suffix} file: leave the format out, or name the file so")
    one_file = len(inputs) == 1 and inputs[0].is_file()
    if one_file and not single_file and output.suffix and not output.is_dir():
        raise InputError(
            f"{output}: unknown suffix, use one of {' '.join(sorted(SUFFIXES))}; or make that folder first"
        )


def _images(
    path: Path, output: Path | None, recursive: bool, notes: list[str], settled: list[Done]
) -> Iterator[_Source]:
    """The images that an input stands for; what is passed over goes to ``notes`` and ``settled``."""
    if path.is_file():
        yield _Source(path, Path())
        return
    found = find_images(path, recursive=recursive, leave_out=output)
    passed = found.passed_over()
    if found.images and passed:
        notes.append(f"{path}: {passed}")
    if found.images and found.subfolders:
        s = "" if found.subfolders == 1 else "s"
        notes.append(f"{path}: passed over {found.subfolders} subfolder{s}: --recursive enters them")
    if not found.images and found.subfolders:
        raise InputError(f"{path}: no images in this folder itself: --recursive enters its subfolders")
    if not found.unreadable:
        require_images(path, found)
    for folder, reason in found.unreadable:
        target = (output or Path()) / folder.relative_to(path)
        settled.append(Done(Job(folder, target), f"{folder}: {reason}"))
    for image in found.images:
        yield _Source(image, image.parent.relative_to(path))


def _named(sources: Sequence[_Source], output: Path | None, mark: str, suffix: str) -> list[Job]:
    """The jobs, in order, each with a name of its own where the format is not asked for."""
    taken: set[Path] = set()
    targets: dict[int, Path] = {}
    changed: list[tuple[int, _Source, str]] = []
    for index, source in enumerate(sources):
        ending = suffix or suffix_for(source.path)
        if not suffix and ending != source.path.suffix:
            changed.append((index, source, ending))
            continue
        targets[index] = _folder(source, output) / f"{source.path.stem}{mark}{ending}"
        taken.add(targets[index])
    for index, source, ending in changed:
        target = _folder(source, output) / f"{source.path.stem}{mark}{ending}"
        if target in taken and source.path.suffix:
            target = target.with_name(f"{source.path.name}{mark}{ending}")
        taken.add(target)
        targets[index] = target
    return [Job(source.path, targets[index]) for index, source in enumerate(sources)]


def _folder(source: _Source, output: Path | None) -> Path:
    """The folder that a result goes to: never, by itself, this package's own."""
    if output is not None:
        return output / source.below
    beside = source.path.parent
    if not _is_ours(beside):
        return beside
    if _is_ours(Path()):
        raise InputError(f"{source.path} ships with this package, where no results belong: give --output")
    return Path()


def _is_ours(folder: Path) -> bool:
    return folder.resolve().is_relative_to(_PACKAGE)


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, each once. InputError if two images would become one file."""
    seen: dict[str, Job] = {}
    for job in jobs:
        first = seen.setdefault(place_of(job.target), job)
        if first is not job and place_of(first.source) != place_of(job.source):
            raise InputError(f"{first.source} and {job.source} would both become {job.target}: rename one")
    return list(seen.values())


def _without_existing(jobs: list[Job], settled: list[Done], notes: list[str], skip_existing: bool) -> Plan:
    """The plan of these jobs. InputError if an input would be written over."""
    sources = {place_of(job.source) for job in jobs}
    results = {place_of(job.target) for job in jobs if place_of(job.target) in sources}
    for job in jobs:
        place = place_of(job.target)
        if place in results and (not skip_existing or place == place_of(job.source)):
            raise InputError(f"{job.target} is an input and would be lost: choose another --output")
    kept = [job for job in jobs if place_of(job.source) not in results]
    if results:
        count = len(jobs) - len(kept)
        notes.append(f"passed over {count} image{'' if count == 1 else 's'}: results of other inputs")
    todo = [job for job in kept if not (skip_existing and job.target.is_file())]
    left = [Done(job, "", skipped=True) for job in kept if job not in todo]
    return Plan(todo, settled + left, notes)
