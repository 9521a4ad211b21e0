"""Submitted frames: a bounded queue before the engine, and a ticket for each frame."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal, get_args

import numpy as np

from ._at_exit import ending, stay_if_ending
from ._errors import BackendError, DroppedError, InputError
from .frames import Frame

Work = Callable[[], Frame]
Policy = Literal["block", "latest"]
"""Policy of ``submit`` when the queue is full: wait, or drop the oldest frame that was not begun."""

_LOG = logging.getLogger("wdsr_edge")
_WAKE_S = 0.5
"""Some systems deliver Ctrl-C only between two waits."""


class Ticket(concurrent.futures.Future[Frame]):
    """A frame on its way: a future of ``concurrent.futures`` that can also be awaited in asyncio.

    ``cancel`` drops a frame that was not begun, ``done`` tells whether ``result`` returns or raises at once, and
    ``add_done_callback`` has a function called with this ticket then. It runs in the thread that worked on the frame or
    dropped it: keep it short. What it raises is logged.
    """

    def __init__(self, forget: Callable[[Ticket], object] = lambda ticket: None) -> None:
        """``forget`` is told when it is cancelled."""
        super().__init__()
        self._forget = forget
        self._process = os.getpid()
        self._why = ""
        self._settled = False
        self.add_done_callback(_settle)

    def result(self, timeout: float | None = None) -> Frame:
        """The frame that ``SuperResolver.__call__`` returns; waits for it, ``timeout`` seconds at most.

        Raises what ``SuperResolver.__call__`` raises; DroppedError if the frame was never begun; TimeoutError.
        """
        with self._wait(timeout):
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that ``result`` raises, or None; waits, and raises DroppedError and TimeoutError as it does."""
        with self._wait(timeout):
            return super().exception(timeout)

    def cancel(self) -> bool:
        """Drop the frame if it was not begun; whether it is dropped."""
        return self.drop("the frame was cancelled before it was begun")

    def drop(self, why: str) -> bool:
        """Cancel, and have ``result`` say ``why``."""
        if not self.done():
            self._why = why
        dropped = super().cancel()
        if dropped:
            self._forget(self)
        return dropped

    def drop_taken_out(self, why: str) -> None:
        """``drop``, by whoever took it out of the queue; also tells ``concurrent.futures.wait``."""
        self.drop(why)
        self.set_running_or_notify_cancel()

    def __await__(self) -> Generator[Any, None, Frame]:
        """``await ticket`` is ``ticket.result()``, in any asyncio loop; cancelling it cancels the ticket."""
        import asyncio

        loop = asyncio.get_running_loop()
        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def tell(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(wake)

        self._refuse_if_lost()
        self.add_done_callback(tell)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self.result(0)

    def work(self, work: Work) -> None:
        """Do ``work`` unless the ticket was cancelled, and keep what it returns or raises."""
        if not self.set_running_or_notify_cancel():
            begun()
            return
        try:
            big = work()
        except BaseException as error:
            begun()
            self.set_exception(error)
        else:
            begun()
            self.set_result(big)

    @contextlib.contextmanager
    def _wait(self, timeout: float | None) -> Iterator[None]:
        """The exception that waiting raises."""
        try:
            self._refuse_if_lost()
            yield
        except concurrent.futures.CancelledError:
            if not self.cancelled():
                raise  # the engine's
            raise DroppedError(self._why) from None
        except concurrent.futures.TimeoutError:  # before Python 3.11 not the built-in one
            if self.done():
                raise
            raise TimeoutError(f"no result within {timeout} s") from None
        finally:
            stay_if_ending()

    def _refuse_if_lost(self) -> None:
        """BackendError or DroppedError where waiting would never end."""
        if self._settled:
            return
        if self._process != os.getpid():
            raise BackendError("this ticket belongs to the parent process: submit the frame in this one")
        if ending() and not self.done():
            raise DroppedError("the program is ending: the frame is dropped")


def _settle(ticket: concurrent.futures.Future[Frame]) -> None:
    """Note that it is done, for a forked child, which may find its lock held for ever. Refers to no ticket itself."""
    assert isinstance(ticket, Ticket)
    ticket._settled = True


_turn = threading.local()


def begun() -> None:
    """The engine has what comes first of the frame that this thread works on: the next frame can be begun."""
    release: Callable[[], None] | None = getattr(_turn, "release", None)
    _turn.release = None
    if release is not None:
        release()


class FrameQueue:
    """Frames that wait for an engine. They are begun in the order in which they came, whatever thread begins them.

    It belongs to the process that made it.
    """

    def __init__(self, workers: int, limit: int) -> None:
        """``workers`` threads begin frames; ``limit`` frames can wait."""
        self._process = os.getpid()
        self._workers, self._limit = workers, limit
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[tuple[Ticket, Work]] = deque()
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()
        """Held by the thread that begins the next frame, or waits for one."""
        self._closed = False

    def put(self, work: Work, policy: Policy = "block") -> Ticket:
        """A ticket for ``work``. BackendError if the queue is closed, before or while this waits."""
        ticket = Ticket(self._forget)
        dropped: Ticket | None = None
        with self._lock:
            # A callback of a ticket would wait for its own thread.
            blocks = policy == "block" and threading.current_thread() not in self._threads
            while blocks and len(self._waiting) >= self._limit and not self._closed:
                self._changed.wait(_WAKE_S)
            if self._closed or ending():
                raise BackendError("this SuperResolver is closed: load it again")
            if policy == "latest" and len(self._waiting) >= self._limit:
                dropped, _ = self._waiting.popleft()
            self._start_worker()
            self._waiting.append((ticket, work))
            self._changed.notify_all()
        if dropped is not None:
            dropped.drop_taken_out("the frame was dropped for a newer one")
        return ticket

    @property
    def forked(self) -> bool:
        """True if it belongs to a process that this one was forked from."""
        return self._process != os.getpid()

    def close(self, cancel: bool) -> None:
        """Take nothing more; ``cancel`` drops what waits. Does not wait: see ``join``."""
        if self.forked:
            return  # the lock may be held for ever by a thread that does not exist here
        with self._lock:
            self._closed = True
            dropped = [ticket for ticket, _ in self._waiting] if cancel else []
            if cancel:
                self._waiting.clear()
            self._changed.notify_all()
        for ticket in dropped:
            ticket.drop_taken_out("the frame was dropped: its SuperResolver was closed before it was begun")

    def join(self) -> None:
        """Wait until a closed queue is empty and its threads are done."""
        this = threading.current_thread()
        if this in self._threads:
            self._work()  # a callback of a ticket closes: what waits is left to this thread
        for thread in self._threads:
            if thread is not this:
                thread.join()

    def _start_worker(self) -> None:
        """One more, up to as many as may be."""
        if len(self._threads) == self._workers:
            return
        thread = threading.Thread(target=self._work, name=f"wdsr-edge_{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # too many threads, or the program is ending
            if not self._threads:
                raise BackendError(f"cannot start a thread for submitted frames: {error}") from error
        else:
            self._threads.append(thread)

    def _work(self) -> None:
        """Frame after frame, until the queue is closed and empty."""
        while True:
            self._turn.acquire()
            _turn.release = self._turn.release
            entry = self._next()
            if entry is None:
                begun()
                return
            ticket, work = entry
            try:
                ticket.work(work)
            except BaseException:  # a callback's SystemExit: the frames to come are not to blame
                _LOG.exception("in a callback of a ticket")
            del entry, ticket, work  # a waiting thread keeps nothing alive

    def _next(self) -> tuple[Ticket, Work] | None:
        with self._lock:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            entry = self._waiting.popleft()
            self._changed.notify_all()
            return entry

    def _forget(self, ticket: Ticket) -> None:
        """Make room for another: it was cancelled."""
        with self._lock:
            here = next((entry for entry in self._waiting if entry[0] is ticket), None)
            if here is not None:
                self._waiting.remove(here)
                ticket.set_running_or_notify_cancel()  # else the thread that has taken it out does that
                self._changed.notify_all()


def check_policy(policy: Policy) -> None:
    """InputError if there is no such policy."""
    if policy not in get_args(Policy):
        raise InputError(f"policy must be 'block' or 'latest', got {policy!r}")


def queue_limit(size: int | None, in_flight: int) -> int:
    """Number of frames that can wait: ``size``, else twice the number in flight; InputError if not one."""
    if size is None:
        return 2 * in_flight
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"queue_size must be None or an integer of at least 1, got {size!r}")
    return int(size)
