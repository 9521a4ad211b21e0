"""Every error this project raises on purpose.

    WdsrError
    ├── InputError          a frame, image, option or name that the caller can mend      (also a ValueError)
    ├── CheckpointError     a weights file that is damaged, foreign or does not fit its config
    ├── BundleError         a bundle that is damaged, hostile or from another version
    ├── ExportError         a model that cannot be folded or exported
    ├── BackendError        an engine that is absent, refused the model or failed
    ├── DroppedError        a submitted frame that was never begun        (also a concurrent.futures.CancelledError)
    └── MissingExtraError   a package that is not installed; names the extra              (also an ImportError)

The text of each is one line that says what is wrong and what to do. The command line prints it and exits with 2.
"""

from __future__ import annotations

from . import _interrupt  # noqa: F401  first of all, so that Ctrl-C is in good hands from here on

# isort: split
import importlib
from concurrent.futures import CancelledError
from types import ModuleType


class WdsrError(Exception):
    """Base of all errors of this project."""


class InputError(WdsrError, ValueError):
    """A frame, image, option or name that the caller can mend."""


class CheckpointError(WdsrError):
    """A weights file that is damaged, foreign or does not fit its config."""


class BundleError(WdsrError):
    """A bundle that is damaged, hostile or from another version."""


class ExportError(WdsrError):
    """A model that cannot be folded or exported."""


class BackendError(WdsrError):
    """An engine that is absent, refused the model or failed."""


class DroppedError(WdsrError, CancelledError):
    """A submitted frame that was never begun: cancelled, pushed out by a newer one, or left behind by ``close``."""


class MissingExtraError(WdsrError, ImportError):
    """A package that is not installed; the text names the extra that brings it."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise MissingExtraError naming the ``extra`` of this project that brings it."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package that is broken, or not for this system, raises whatever it likes
        raise MissingExtraError(
            f"{module.partition('.')[0]} cannot be imported ({error}): pip install 'wdsr-edge[{extra}]'"
        ) from error
