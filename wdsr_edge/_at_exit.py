"""The end of a process that still has threads in an engine.

Python ends daemon threads at the moment they ask for its lock. A thread that comes back from an engine asks for it
inside C++, and the whole process aborts. So the end waits until every engine has come back, and lets no thread in.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from typing import Protocol

PATIENCE_S = 30.0
"""Seconds that the end waits at most, all engines together."""


class Ends(Protocol):
    """An object that must be closed before the process ends."""

    def _end(self, deadline: float) -> None:
        """Wait for calls under way, until ``time.monotonic()`` is ``deadline`` at most, and free what is held."""


_watched: weakref.WeakSet[Ends] = weakref.WeakSet()
_ending = 0
"""The process that is ending; a number, since a forked child inherits it."""


def end_with_process(what: Ends) -> None:
    """Call its ``_end`` when the process ends, unless it is gone by then.

    Handlers run in reverse order. Registering anew each time has this one run before those of the engine's module.
    """
    _watched.add(what)
    atexit.unregister(_end_all)
    atexit.register(_end_all)


def ending() -> bool:
    """True if this process is ending, and all threads but daemons are done."""
    return _ending == os.getpid()


def shut_out() -> bool:
    """True if this thread must stay out of engines: the process would end without waiting for it."""
    return ending() and threading.current_thread() is not threading.main_thread()


def stay_if_ending() -> None:
    """Do not return to a daemon thread of a process that is ending.

    It would be ended soon in any case, but not before it had reported a closed engine on stderr.
    """
    if not ending():
        return
    thread = threading.current_thread()
    if thread.daemon and not isinstance(thread, threading._DummyThread):  # a thread of C++ may be waited for
        threading.Event().wait()


def _end_all() -> None:
    global _ending
    _ending = os.getpid()
    deadline = time.monotonic() + PATIENCE_S
    with contextlib.suppress(KeyboardInterrupt):  # the user will not wait
        for what in list(_watched):
            with contextlib.suppress(Exception):  # nobody is left to hear of it
                what._end(deadline)
