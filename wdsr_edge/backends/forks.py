"""Engines and forked processes: their threads stay behind in the parent, so that a child must leave what it inherited.

In a child an engine's threads do not exist, and locks that they held at that moment stay locked. A child that frees
such an engine, runs it, or lets its destructor run at exit, may wait for ever. So what watches forks here is told in
the child before anything else runs, lets go of its engine without freeing it, and opens another or refuses.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Any, Protocol

opening = threading.RLock()
"""Held while an engine is opened. A fork waits for that, so that a child inherits no lock of an engine as locked."""


NO_GPU = "a forked process cannot use the GPU: start it with multiprocessing's spawn"


class Watching(Protocol):
    """An object that is told about forks."""

    def leave(self) -> None:
        """Called in a forked child before anything else: let go of what belongs to the parent."""


_watching: weakref.WeakSet[Watching] = weakref.WeakSet()


def watch(one: Watching) -> None:
    """Call ``one.leave`` in each forked child, as long as ``one`` lives."""
    _watching.add(one)


def never_free(thing: Any) -> None:
    """Keep ``thing`` to the very end of this process, without its destructor."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _tell_the_living() -> None:
    for one in list(_watching):
        one.leave()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(before=opening.acquire, after_in_parent=opening.release, after_in_child=opening.release)
    os.register_at_fork(after_in_child=_tell_the_living)
