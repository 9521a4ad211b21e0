"""Image files enlarged, each done on its own so that one bad file stops nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ._errors import WdsrError
from .images.files import MAX_PIXELS, check_writable, read_picture, write_picture
from .super_resolver import SuperResolver
from .upscale_plan import Done, Job, Plan, plan

__all__ = ["Done", "Job", "Plan", "plan", "upscale_file", "upscale_files"]


def upscale_files(
    sr: SuperResolver,
    jobs: Sequence[Job],
    *,
    quality: int = 95,
    lossless: bool | None = None,
    max_pixels: int = MAX_PIXELS,
    on_progress: Callable[[Job, float], None] = lambda job, part: None,
) -> Iterator[Done]:
    """Do the jobs in order, yielding how each ended; a file that fails leaves its target as it was.

    ``on_progress`` is told of which part of a job is done, from 0 to 1, before and after each tile. Where the work is
    interrupted by KeyboardInterrupt or SystemExit, a target that was just written is yielded before that is raised.
    """
    for job in jobs:
        on_progress(job, 0.0)
        before = _identity(job.target)
        try:
            progress = partial(on_progress, job)
            notes = upscale_file(
                sr, job, quality=quality, lossless=lossless, max_pixels=max_pixels, on_progress=progress
            )
        except (WdsrError, MemoryError) as error:
            yield Done(job, str(error) or "out of memory")
        except (KeyboardInterrupt, SystemExit):
            if _identity(job.target) != before:
                yield Done(job, "")
            raise
        else:
            yield Done(job, "", notes=notes)


def upscale_file(
    sr: SuperResolver,
    job: Job,
    *,
    quality: int = 95,
    lossless: bool | None = None,
    max_pixels: int = MAX_PIXELS,
    on_progress: Callable[[float], None] = lambda part: None,
) -> tuple[str, ...]:
    """Read, enlarge and write one image, with all that ``write_picture`` keeps; what it does not is returned, in words.

    ``lossless`` makes a WebP so, or not; None keeps it as it was. Permissions are those that ``cp`` would give: the
    source's without what the umask takes away, or those of a target that was there. Raises what ``read_picture``,
    ``write_picture`` and ``sr`` raise.
    """
    picture = read_picture(job.source, max_pixels=max_pixels)
    height, width = picture.pixels.shape[:2]
    size = (width * sr.scale, height * sr.scale)
    alpha = picture.pixels.ndim == 3 and picture.pixels.shape[2] == 4
    deep = picture.pixels.dtype == np.uint16
    check_writable(job.target, size=size, alpha=alpha, deep=deep, lossless=bool(lossless))
    big = sr(picture.pixels, on_tile=lambda done, total: on_progress(done / total))
    picture = dataclasses.replace(picture, pixels=big)
    return write_picture(job.target, picture, quality=quality, lossless=lossless, like=job.source)


def _identity(path: Path) -> tuple[int, ...]:
    """Identity of a file, which changes when it is replaced."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
