"""``wdsr-edge download``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import byte_bar, say


def run(
    dataset: Annotated[str, typer.Argument(metavar="DIV2K", help="The set to fetch.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that gets DIV2K's official layout.")],
    scale: Annotated[
        list[int] | None, typer.Option(help="The authors' LR images at 2, 3 or 4 as well; may be repeated.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, valid or all.")] = "all",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the zip files.")] = False,
    url: Annotated[str, typer.Option(help="Folder of the archives on a server.")] = "",
) -> None:
    """Fetch DIV2K from its authors: 4.0 GB for the HR images alone, which is enough (LR images are made as needed).

    A download that stopped goes on in the next call. DIV2K is for academic research only: see its authors' page.
    """
    from .._errors import InputError
    from ..data.download import DIV2K, DIV2K_URL, download

    scales = scale or []
    if dataset.upper() != "DIV2K":
        raise InputError(f"{dataset}: only DIV2K can be fetched")
    if split not in ("train", "valid", "all") or not set(scales) <= {2, 3, 4}:
        raise InputError("--split is train, valid or all, and --scale 2, 3 or 4")
    folders = ["HR", *(f"LR_bicubic/X{factor}" for factor in scales)]
    splits = ("train", "valid") if split == "all" else (split,)
    wanted = {f"DIV2K_{part}_{folder}" for part in splits for folder in folders}
    source = f"{url.rstrip('/')}/" if url else DIV2K_URL
    with byte_bar() as bar:
        task = bar.add_task("DIV2K", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        for archive in DIV2K:
            if archive.folder in wanted:
                fetched = download(archive, output, url=source, keep=keep, on_bytes=show)
                say(f"{output / archive.folder}: {'fetched and checked' if fetched else 'there already'}")
