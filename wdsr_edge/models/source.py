"""From what a user names to a network in PyTorch."""

from __future__ import annotations

import os

from .._errors import InputError
from ..bundle import WEIGHTS, Bundle
from ..loading import find_bundle, is_checkpoint
from .checkpoint import load_checkpoint
from .edsr import EDSR
from .wdsr import WDSR


def load_model(source: str | os.PathLike[str]) -> EDSR | WDSR:
    """The network of a checkpoint file, a bundle directory or a zoo name, in eval mode.

    Raises CheckpointError, BundleError or InputError, each naming ``source``.
    """
    if is_checkpoint(source):
        return load_checkpoint(source)
    bundle = Bundle.load(find_bundle(source))
    if not bundle.has(WEIGHTS):
        raise InputError(f"{bundle.path} holds no {WEIGHTS}: give the checkpoint it was made from")
    bundle.read(WEIGHTS)
    model = load_checkpoint(bundle.path / WEIGHTS)
    if model.config != bundle.config:
        raise InputError(f"{bundle.path}: {WEIGHTS} is a {model.config.name} with another config than the manifest's")
    return model
