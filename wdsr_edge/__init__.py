"""wdsr-edge: WDSR super-resolution from PyTorch training to a camera. Frame in, bigger frame out.

What needs numpy is imported when it is first asked for, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from ._version import __version__

if TYPE_CHECKING:
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
    "__version__",
    "load",
]

_MODULES = {"Bundle": "bundle", "SuperResolver": "super_resolver", "Ticket": "tickets", "load": "loading"}


def __getattr__(name: str) -> Any:
    """Of ``_MODULES`` (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
