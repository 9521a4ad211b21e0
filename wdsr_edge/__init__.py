"""wdsr-edge: WDSR super-resolution from PyTorch training to a camera. Frame in, bigger frame out."""

from ._errors import (
    BackendError,
    BundleError,
    CheckpointError,
    DroppedError,
    ExportError,
    InputError,
    MissingExtraError,
    WdsrError,
)
from .bundle import Bundle
from .loading import load
from .super_resolver import SuperResolver
from .tickets import Ticket

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "CheckpointError",
    "DroppedError",
    "ExportError",
    "InputError",
    "MissingExtraError",
    "SuperResolver",
    "Ticket",
    "WdsrError",
    "load",
]
