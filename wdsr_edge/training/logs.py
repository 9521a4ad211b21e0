"""Logs of a run: ``log.csv``, TensorBoard events, and pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._errors import InputError, require
from .._files import read_text, replacing
from ..data.pairs import Pair
from ..images.files import Picture, Rgb, write_picture
from .state import Progress

SAMPLES = 4
"""Validation images of which pictures are kept."""

_SAMPLE_SIDE = 96
"""LR pixels a side of a sample, at most."""

_COLUMNS = [field.name for field in dataclasses.fields(Progress)]


class Logs:
    """The logs in ``folder`` of a run that has done ``step`` steps; what they hold of later steps is dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        writer = require("torch.utils.tensorboard", "train").SummaryWriter
        self.samples = folder / "samples"
        self._csv = folder / "log.csv"
        self._tensorboard = writer(str(folder / "tensorboard"), purge_step=step + 1)
        with replacing(self._csv) as fresh, open(fresh, "w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
            rows.writeheader()
            rows.writerows(row for row in _rows(self._csv) if int(row["step"]) <= step)

    def add(self, progress: Progress) -> None:
        """One row, and one point in each curve."""
        values = dataclasses.asdict(progress)
        try:
            with open(self._csv, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, _COLUMNS, lineterminator="\n").writerow(values)
        except OSError as error:
            raise InputError(f"cannot write {self._csv}: {error.strerror}") from error
        for name in ("loss", "learning_rate", "psnr_y"):
            if not math.isnan(values[name]):
                self._tensorboard.add_scalar(name, values[name], progress.step)
        self._tensorboard.flush()

    def add_sample(self, number: int, pair: Pair, sr: Rgb, step: int) -> None:
        """The middle of a validation image side by side: LR (its pixels enlarged), SR, HR; the last one is kept."""
        scale = len(pair.hr) // len(pair.lr)
        lr = pair.lr.repeat(scale, axis=0).repeat(scale, axis=1)
        side = _SAMPLE_SIDE * scale
        top, left = (max(0, (length - side) // 2) for length in lr.shape[:2])
        views = [image[top : top + side, left : left + side] for image in (lr, sr, pair.hr)]
        strip = np.ascontiguousarray(np.hstack(views))
        name = f"{number}-{pair.name[:50]}".encode("utf-8", "replace").decode()
        write_picture(self.samples / f"{name}.png", Picture(strip))
        self._tensorboard.add_image(f"samples/{name}", strip, step, dataformats="HWC")

    def close(self) -> None:
        """Flush everything to disk."""
        self._tensorboard.close()


def _rows(path: Path) -> Sequence[dict[str, str]]:
    """Rows of an earlier log; the last one may be half written, and a foreign file counts as none."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except (OSError, ValueError, csv.Error):
        return []
    return [row for row in rows if list(row) == _COLUMNS and None not in row.values() and row["step"].isdigit()]
