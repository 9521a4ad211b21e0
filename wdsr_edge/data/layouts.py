"""Which file is whose low-resolution version: plain folders, DIV2K's official layout, and those of the test sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from .._errors import InputError
from ..images.folders import list_images

Split = Literal["train", "valid"]

DATA_VARIABLE = "WDSR_EDGE_DATA"


class PairFiles(NamedTuple):
    """A ground truth and its low-resolution version, as files."""

    hr: Path
    lr: Path | None
    """None: there is none, so it is made with the exact bicubic resampler."""


def list_pairs(folder: str | os.PathLike[str], scale: int, split: Split = "valid") -> list[PairFiles]:
    """The images of ``folder``, sorted by name, each with its LR file at ``scale`` where the folder has one.

    ``folder`` is an image, any folder of images, or of one of these layouts, told by its subfolders:

        DIV2K              DIV2K_train_HR/0001.png             DIV2K_train_LR_bicubic/X2/0001x2.png
        EDSR's test sets   HR/baby.png                         LR_bicubic/X2/babyx2.png
        SelfExSR           image_SRF_2/img_001_SRF_2_HR.png    image_SRF_2/img_001_SRF_2_LR.png

    ``split`` says which part of DIV2K; ``DIV2K_train_HR`` and ``HR`` themselves may be named as well. Raises InputError
    if there are no images.
    """
    folder = Path(folder)
    hr, lr = folder / f"DIV2K_{split}_HR", folder / f"DIV2K_{split}_LR_bicubic"
    if (folder / "HR").is_dir():
        hr, lr = folder / "HR", folder / "LR_bicubic"
    elif (folder / f"image_SRF_{scale}").is_dir():
        return _selfexsr(folder / f"image_SRF_{scale}")
    elif folder.name == "HR" or (folder.name.startswith("DIV2K_") and folder.name.endswith("_HR")):
        hr, lr = folder, folder.parent / f"{folder.name[:-2]}LR_bicubic"
    elif not hr.is_dir():
        if any(folder.glob("DIV2K_*_HR")):
            raise InputError(f"{folder} has no {hr.name}: fetch it with wdsr-edge download DIV2K")
        return [PairFiles(path, None) for path in list_images(folder)]
    small = {path.stem: path for path in (lr / f"X{scale}").glob("*.*")}
    return [PairFiles(path, small.get(f"{path.stem}x{scale}")) for path in list_images(hr)]


def _selfexsr(folder: Path) -> list[PairFiles]:
    found = [path for path in list_images(folder) if path.stem.endswith("_HR")]
    if not found:
        raise InputError(f"{folder}: no images that end in _HR")
    smaller = [path.with_name(f"{path.stem[:-3]}_LR{path.suffix}") for path in found]
    return [PairFiles(hr, lr if lr.is_file() else None) for hr, lr in zip(found, smaller, strict=True)]


def find_dataset(name: str, root: Path | None = None) -> Path:
    """A path as it is, or a named set such as ``Set5`` or ``DIV2K``, which lies in ``root`` or a folder of it.

    ``root`` is by default what the environment variable WDSR_EDGE_DATA names; upper and lower case are the same.
    Raises InputError, naming the sets there are.
    """
    path = Path(name)
    if path.exists() or path.name != name:
        return path
    if root is None and not os.environ.get(DATA_VARIABLE):
        raise InputError(
            f"{name}: no such file or folder; to find a set by its name, set {DATA_VARIABLE} to the folder it lies in"
        )
    root = root or Path(os.environ[DATA_VARIABLE])
    folders = sorted(entry for pattern in ("*", "*/*") for entry in root.glob(pattern) if entry.is_dir())
    for folder in sorted(folders, key=lambda folder: len(folder.parts)):
        if folder.name.lower() == name.lower():
            return folder
    known = ", ".join(dict.fromkeys(folder.name for folder in folders if folder.parent == root)) or "nothing"
    raise InputError(f"{name}: no such file or folder, and no folder of that name in {root}, which holds {known}")
