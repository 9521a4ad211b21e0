"""Calls of an engine that are under way."""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType

from ._at_exit import shut_out, stay_if_ending
from ._errors import BackendError

_renewing = threading.Lock()


class Calls:
    """Counts those who are inside (``with calls:``), in whatever thread, so that one can wait until they are out."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        """The state that belongs to one process."""
        # Not Condition's own with statement: Ctrl-C inside it can leave the lock held.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._inside: dict[int, int] = {}
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """True if the calls counted here are of a parent process."""
        return self._process != os.getpid()

    @property
    def lock(self) -> threading.RLock:
        """The lock, made anew in a forked child, where the parent's threads do not exist."""
        if self.forked:
            with _renewing:
                if self.forked:  # no other thread of the child was first
                    self._renew()
        return self._lock

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self.lock:
            self._inside[thread] = self._inside.get(thread, 0) + 1
        if shut_out():  # asked only now, so that the end either waits for this call or is seen by it
            self.__exit__(None, None, None)
            raise BackendError("the program is ending: no frame is begun any more")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread = threading.get_ident()
        with self.lock:
            left = self._inside.pop(thread, 1) - 1
            if left:
                self._inside[thread] = left
            self._changed.notify_all()
        stay_if_ending()

    def wait(self, deadline: float | None = None) -> bool:
        """Until no other thread is inside, or ``time.monotonic()`` is ``deadline``; whether none is."""
        lock, this = self.lock, threading.get_ident()
        if not lock.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            return False
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            return self._changed.wait_for(lambda: not self._inside.keys() - {this}, left)
        finally:
            lock.release()

    def _end(self, deadline: float) -> None:
        """See Ends."""
        if not self.forked:
            self.wait(deadline)
