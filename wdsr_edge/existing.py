"""The bundle or files already at an output path."""

from __future__ import annotations

import os
from pathlib import Path

from ._errors import BundleError, InputError
from .bundle import Bundle, read_manifest


def existing(target: str | os.PathLike[str], weights: str | None, *, force: bool = False) -> Bundle | None:
    """The bundle at ``target``, if there is one; a network of ``weights`` (``weights_sha256``) would replace it.

    Raises InputError if it is of other weights, or cannot be checked, unless that is ``force``d.
    """
    path = Path(target)
    try:
        manifest = read_manifest(path)
    except BundleError:
        return None  # nothing, or something that check_target refuses
    same = weights is not None and manifest.get("weights_sha256") == weights
    try:
        found = Bundle.load(path)
    except BundleError as error:
        if same or force:
            return None  # damaged: what is written heals it
        raise InputError(
            f"{error}; it may be another model: choose another folder, or replace it with --force"
        ) from error
    if not same and not force:
        lost = ", whose INT8 would be lost" if int8_of(found) else ""
        raise InputError(
            f"{path} holds a {found.name} of other weights{lost}: choose another folder with --output, or replace it "
            "with --force"
        )
    return found


def int8_of(bundle: Bundle) -> list[str]:
    """The INT8 graphs that it holds."""
    return [graph for graph in bundle.graphs if graph.startswith("int8")]
