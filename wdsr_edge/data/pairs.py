"""A low-resolution image and the ground truth it was made from: what training, calibration and evaluation work on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .._errors import InputError, WdsrError
from ..images.files import Rgb, read_rgb
from ..images.resampler import resize_bicubic
from .layouts import PairFiles, Split, list_pairs


class Pair(NamedTuple):
    """A low-resolution image and the ground truth it was made from, uint8 HWC RGB."""

    name: str
    lr: Rgb
    hr: Rgb


def load_pairs(
    folders: Iterable[str | os.PathLike[str]],
    scale: int,
    *,
    split: Split = "valid",
    on_left_out: Callable[[Path, str], None] = lambda path, reason: None,
) -> list[Pair]:
    """Every image of ``folders``, in the layouts of ``wdsr_edge.data.layouts``, as a pair in memory; sorted by path.

    Images that are too small for SSIM are left out, and told to ``on_left_out``. Raises InputError if none remains,
    or for an image that cannot be read.
    """
    folders = list(folders)
    files = (pair for folder in folders for pair in list_pairs(folder, scale, split))
    pairs = list(read_pairs(files, scale, on_left_out=on_left_out))
    if not pairs:
        raise InputError(f"no image that is large enough in {', '.join(map(str, folders))}")
    return pairs


def least_for_ssim(scale: int) -> int:
    """LR pixels a side from which SSIM's window of 11 fits the HR image, ``scale`` pixels shaved off its borders."""
    return -(-11 // scale) + 2


def read_pairs(
    files: Iterable[PairFiles],
    scale: int,
    *,
    on_left_out: Callable[[Path, str], None] = lambda path, reason: None,
    on_unreadable: Callable[[Path, str], None] | None = None,
) -> Iterator[Pair]:
    """``load_pairs`` of these files one at a time; what cannot be read is told to ``on_unreadable`` if there is one."""
    for file in files:
        try:
            pair = read_pair(file, scale, least=least_for_ssim(scale))
        except TooSmallError as error:
            on_left_out(file.hr, str(error))
        except WdsrError as error:
            if on_unreadable is None:
                raise
            on_unreadable(file.hr, str(error))
        else:
            yield pair


class TooSmallError(InputError):
    """An image has fewer pixels than its use needs."""


Keep = Callable[[Path, str, Callable[[], Rgb]], Rgb]
"""Given an image's file, a word for what is made of it, and a call that makes it: what the call would return."""


def read_pair(files: PairFiles, scale: int, *, least: int = 1, keep: Keep = lambda source, what, make: make()) -> Pair:
    """HR cropped to a multiple of ``scale``, and its LR: the file that came with it, else MATLAB's bicubic.

    ``keep`` may remember what was read or made before. Raises TooSmallError if the LR has fewer than ``least`` pixels
    a side, InputError if a file cannot be read or the two do not fit each other.
    """
    hr = keep(files.hr, "image", lambda: read_rgb(files.hr))
    height, width = (side // scale for side in hr.shape[:2])
    if min(height, width) < least:
        raise TooSmallError(f"{files.hr} is smaller than {least * scale} pixels a side")
    hr = hr[: height * scale, : width * scale]
    if files.lr is None:
        return Pair(files.hr.stem, keep(files.hr, f"bicubic x{scale}", lambda: bicubic(hr, 1 / scale)), hr)
    given = files.lr
    lr = keep(given, "image", lambda: read_rgb(given))
    if lr.shape[:2] != (height, width):
        raise InputError(f"{given} is {lr.shape[1]}x{lr.shape[0]}, and not 1/{scale} of {files.hr}")
    return Pair(files.hr.stem, lr, hr)


def bicubic(image: Rgb, scale: float) -> Rgb:
    """``resize_bicubic`` of a uint8 image, the baseline of every table."""
    return resize_bicubic(image, scale)
