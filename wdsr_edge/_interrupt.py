"""Ctrl-C in the ``wdsr-edge`` command: never a traceback, always exit code 130.

This module is imported before NumPy and all else, which takes most of the time until a command begins: where the
process is the command, Ctrl-C until then ends it at once, as nothing is there yet to be tidied up. A program that
imports ``wdsr_edge`` keeps its own handler.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from pathlib import Path

LINE = "wdsr-edge: interrupted; nothing half-written was left"

_happened: list[int] = []


def is_command() -> bool:
    """True if this process is ``wdsr-edge`` or ``python -m wdsr_edge``, and not a program that imports the package."""
    words = sys.orig_argv
    by_module = ("-m", "wdsr_edge") in itertools.pairwise(words[:8])
    return by_module or any(Path(word).stem in ("wdsr-edge", "wdsr-edge-script") for word in words[:2])


def happened() -> bool:
    """True if the user pressed Ctrl-C: whatever a library made of it, that is why the command ends."""
    return bool(_happened)


def end_at_once() -> None:
    """From now on Ctrl-C ends the command without tidying up: before it begins, and when it is over."""
    _handle(_end)


def unwind() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that nothing half-written stays."""
    _handle(_raise)


def _handle(handler: signal._HANDLER) -> None:
    """Unless another one is wanted: what a shell starts in the background ignores Ctrl-C."""
    ours = (signal.default_int_handler, _end, _raise)
    if (
        is_command()
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) in ours
    ):
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = _unraisable


def _end(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"{LINE}\n".encode())
    os._exit(130)


def _raise(number: int, frame: object) -> None:
    _happened.append(number)
    raise KeyboardInterrupt


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    """Ctrl-C while an object was collected is not a bug to be printed."""
    if not issubclass(found.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(found)


end_at_once()
