"""Frame in, bigger frame out."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np

from ._at_exit import end_with_process, shut_out, stay_if_ending
from ._calls import Calls
from ._errors import BackendError, InputError
from .backends import AsyncSession, Backend, Session
from .bundle import Precision
from .config import ModelConfig
from .frames import ALPHA_REACH, Color, Frame, bled, checked, enlarge_alpha, is_grey, luma
from .tickets import FrameQueue, Policy, Ticket, begun, check_policy, queue_limit
from .tiling import ACTIVATION_BYTES, Span, auto_pixels, auto_tile, auto_windows, tiles

if TYPE_CHECKING:
    from .chosen import Chosen

OnTile = Callable[[int, int], None]
"""Told how many windows of a frame are done, and how many there are."""
Tile = int | Literal["auto"] | None
"""Core edge of a tile in LR pixels, automatic, or None for whole frames."""


class SuperResolver:
    """A network in an engine. Make one with ``wdsr_edge.load``; close it, or use it in a ``with`` statement."""

    def __init__(
        self,
        session: Session,
        config: ModelConfig,
        *,
        open_float_session: Callable[[], Session],
        backend: Backend = "onnxruntime",
        precision: Precision = "fp32",
        tile: Tile = "auto",
        fixed_windows: bool = False,
        keep_grey: bool = True,
        queue_size: int | None = None,
        threads: int | None = None,
        chosen: Chosen | None = None,
    ) -> None:
        """``session`` runs the uint8 graph; ``open_float_session`` opens the float one when a frame first needs it.

        ``fixed_windows`` gives large frames windows of one size, for engines that are compiled for each.
        ``keep_grey=False`` leaves the colours that the network gives to frames of R = G = B, to compare networks.
        ``queue_size`` is how many submitted frames can wait; None takes twice as many as are worked on at a time.
        ``threads`` and ``chosen`` are told to whoever asks.
        """
        if tile not in ("auto", None) and (
            isinstance(tile, bool) or not isinstance(tile, (int, np.integer)) or tile < 1
        ):
            raise InputError(f"tile must be 'auto', None or an integer of at least 1, got {tile!r}")
        self.scale = config.scale
        """Output pixels for each input pixel, along each side."""
        self.halo = config.halo
        """Receptive-field radius in LR pixels."""
        self.backend = backend
        """Name of the engine in use."""
        self.precision = precision
        """Precision in use."""
        self.config = config
        """The network."""
        self.threads = threads
        """Threads of a CPU backend; None if that was left to it."""
        self.chosen = chosen
        """Why this backend and precision, with ms and dB; None if a session was given without."""
        memory = getattr(session, "activation_bytes", ACTIVATION_BYTES)
        self._tile = auto_tile(config, memory) if tile == "auto" else tile
        self._pixels = auto_pixels(config, memory) if tile == "auto" else None
        self._fixed_windows = fixed_windows
        self._keep_grey = keep_grey
        self._session = session
        self.in_flight = session.in_flight if isinstance(session, AsyncSession) else 1
        """Number of submitted frames worked on at a time."""
        self._float_session: Session | None = None
        self._open_float_session = open_float_session
        self._queue_size = queue_limit(queue_size, self.in_flight)
        self._queue: FrameQueue | None = None
        self._calls = Calls()
        self._closed = self._freed = False
        end_with_process(self)

    def __repr__(self) -> str:
        parts = [self.config.name, f"x{self.scale}", f"{self.backend} in {self.precision}"]
        if self.threads:
            parts.append(f"{self.threads} thread{'' if self.threads == 1 else 's'}")
        windows = f"automatic tiles of {self._pixels:,} pixels" if self._pixels else f"tile {self._tile}"
        tile = windows if self._tile else "whole frames"
        parts += [tile, *(["closed"] if self._closed else [])]
        return f"<SuperResolver {', '.join(parts)}{f'; {self.chosen.about}' if self.chosen else ''}>"

    def __reduce__(self) -> str:
        raise InputError("a SuperResolver cannot be copied to another process: load it there")

    def __call__(self, frame: Frame, color: Color = "rgb", *, on_tile: OnTile | None = None) -> Frame:
        """``frame`` enlarged ``scale`` times: [H, W, ...] to [H*s, W*s, ...], channels and dtype as they came.

        Shapes: [H, W, 3]; [H, W, 4] with straight alpha last, which is enlarged bicubically; [H, W] or [H, W, 1] grey,
        which comes back as the BT.601 luma of the network's output, and so does a frame of R = G = B in every pixel, in
        all three. Colour under an alpha of 0 has no influence on the result: visible colour is spread there first.
        Any size from 1x1, any strides, never written to.
        Dtypes: uint8, through the engine at its precision; uint16 (0 to 65535) and float32 (0 to 1; up to 0.001 outside
        is clipped), through the float32 graph, without rounding to 8 bits in between. Any byte order; the result has
        that of the machine. ``color="bgr"`` takes and gives BGR, as OpenCV has it. ``on_tile`` is called after each
        window with how many are done and how many there are; not for a frame that is one window.
        Raises InputError for anything else, BackendError if the engine fails or was closed.
        """
        frame = checked(frame, color)
        with self._calls:
            self._refuse_if_closed()
            return self._enlarge(frame, color, on_tile)

    def submit(self, frame: Frame, color: Color = "rgb", *, policy: Policy = "block") -> Ticket:
        """Start on ``frame``; leave it unchanged until there is a result.

        Frames are begun in order; on a GPU a frame is prepared and copied while it works on the one before. Where as
        many frames wait as the queue takes, this waits as well, or with ``policy="latest"`` drops the oldest of them,
        whose ticket says so. Raises what ``__call__`` raises, also if another thread closes the SuperResolver while
        this waits. In asyncio, which must not wait, use "latest" or ``asyncio.to_thread``.
        """
        frame = checked(frame, color)
        check_policy(policy)
        try:
            return self._own_queue().put(partial(self._run_submitted, frame, color), policy)
        finally:
            stay_if_ending()

    def _own_queue(self) -> FrameQueue:
        """The queue of this process."""
        with self._calls.lock:
            self._refuse_if_closed()
            if self._queue is None or self._queue.forked:
                self._queue = FrameQueue(self.in_flight, self._queue_size)
                weakref.finalize(self, self._queue.close, True).atexit = False
            return self._queue

    def _run_submitted(self, frame: Frame, color: Color) -> Frame:
        with self._calls:
            return self._enlarge(frame, color)

    def engine_ms(self, frame: Frame, count: int = 20) -> float | None:
        """Milliseconds of the engine alone for ``frame`` (uint8 RGB), ``count`` runs in a row without copies.

        None where the engine cannot tell, or the frame takes several windows.
        """
        if not hasattr(self._session, "bare_ms") or not self._fits(*frame.shape[:2]):
            return None
        with self._calls:
            self._refuse_if_closed()
            found: float = self._session.bare_ms(np.ascontiguousarray(frame[None]), count)
        return found

    def close(self, *, cancel: bool = False) -> None:
        """Finish the submitted frames and the calls under way, in whatever thread, and free the engine.

        ``cancel`` drops the frames that were not begun; so does Ctrl-C while this waits. Closing twice is fine. What is
        still open when the program ends is closed then, and frames that were not begun are dropped.
        """
        with self._calls.lock:
            self._closed = True
            queue = None if self._queue is None or self._queue.forked else self._queue
        try:
            if queue is not None:
                queue.close(cancel)
                queue.join()
            self._calls.wait()
        except BaseException:
            if queue is not None:
                queue.close(True)
            raise
        self._free()

    def _end(self, deadline: float) -> None:
        """``close`` when the process ends: nothing more is begun, and only what is under way is waited for."""
        if not self._calls.forked and self._calls.wait(deadline):
            self._closed = True
            self._free()

    def _free(self) -> None:
        """Close the engine, once; a call like others, which the end of a process waits for."""
        with self._calls, self._calls.lock:
            if self._freed:
                return
            self._session.close()
            if self._float_session is not None:
                self._float_session.close()
            self._freed = True  # not if it was interrupted

    def __enter__(self) -> SuperResolver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it; after an exception, Ctrl-C included, the frames that were not begun are dropped."""
        self.close(cancel=kind is not None)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BackendError("this SuperResolver is closed: load it again")

    def _enlarge(self, frame: Frame, color: Color, on_tile: OnTile | None = None) -> Frame:
        """A checked frame of any kind."""
        s, (height, width) = self.scale, frame.shape[:2]
        colours = bled(frame, self.halo + ALPHA_REACH) if frame.shape[2:] == (4,) else frame
        grey = self._keep_grey and colours.shape[2:] == (3,) and is_grey(colours)
        if frame.shape[2:] == (3,) and color == "rgb" and not grey and self._fits(height, width):
            return self._window(frame)
        big = np.empty((height * s, width * s, *frame.shape[2:]), frame.dtype)
        if frame.ndim == 2:
            self._fill(big, frame, on_tile)
        elif grey or frame.shape[2] == 1:
            self._fill(big[..., 0], colours[..., 0], on_tile)
            if grey:
                big[..., 1:3] = big[..., :1]
        else:
            channels = slice(0, 3) if color == "rgb" else slice(2, None, -1)
            self._fill(big[..., channels], colours[..., channels], on_tile)
        if frame.shape[2:] == (4,):
            big[..., 3] = enlarge_alpha(frame[..., 3], s)
        return big

    def _fits(self, height: int, width: int) -> bool:
        """True if a frame is one window."""
        return len(self._windows(height, width)) == 1

    def _windows(self, height: int, width: int) -> Sequence[tuple[Span, Span]]:
        """Row and column spans of the windows of a frame.

        Of automatic ones all are of one size for all large frames if the engine is compiled for each, and a frame that
        is no larger than such a window may be wide.
        """
        if self._pixels is not None and not self._fixed_windows:
            return auto_windows(height, width, self.halo, self._pixels)
        whole = [(Span(0, height, 0, height), Span(0, width, 0, width))]
        if self._tile is None:
            return whole
        edge, longer = self._tile + 2 * self.halo, max(height, width)
        if self._pixels is not None and longer <= 4 * edge and height * width <= edge * edge:
            return whole
        return list(tiles(height, width, self._tile, self.halo, fixed=self._fixed_windows))

    def _fill(self, big: Frame, frame: Frame, on_tile: OnTile | None) -> None:
        """Write ``frame``, RGB or grey, enlarged into ``big``, window by window."""
        windows = self._windows(*frame.shape[:2])
        if len(windows) == 1:
            big[...] = self._window(frame)
            return
        begun: deque[tuple[Callable[[], Frame], Span, Span]] = deque()
        for number, (row, column) in enumerate(windows, 1):
            begun.append((self._begin(frame[row.start : row.stop, column.start : column.stop]), row, column))
            while len(begun) >= self.in_flight or (begun and number == len(windows)):
                self._paste(big, *begun.popleft())
                if on_tile is not None:
                    on_tile(number - len(begun), len(windows))

    def _paste(self, big: Frame, finish: Callable[[], Frame], row: Span, column: Span) -> None:
        """Write what is kept of a window into ``big``."""
        s = self.scale
        kept = finish()[
            (row.first - row.start) * s : (row.last - row.start) * s,
            (column.first - column.start) * s : (column.last - column.start) * s,
        ]
        big[row.first * s : row.last * s, column.first * s : column.last * s] = kept

    def _window(self, window: Frame) -> Frame:
        """One call of an engine."""
        return self._begin(window)()

    def _begin(self, window: Frame) -> Callable[[], Frame]:
        """Start one call of an engine; what is returned waits for it. Grey goes in as RGB and comes back as luma."""
        if self._freed or shut_out():
            raise BackendError("this SuperResolver was closed under a call: load it again")
        if window.ndim == 2:
            finish = self._begin(np.repeat(window[..., None], 3, axis=2))
            return lambda: luma(finish(), window.dtype)
        if window.dtype == np.uint8:
            batch = np.ascontiguousarray(window[None])
            if isinstance(self._session, AsyncSession):
                ticket = self._session.submit(batch)
                begun()
                return lambda: self._right_size(window, ticket.result()[0])
            big = self._right_size(window, self._session.run(batch)[0])
            return lambda: big
        enlarged = self._run_float(window)
        return lambda: enlarged

    def _run_float(self, window: Frame) -> Frame:
        """One call of the float graph."""
        with self._calls.lock:
            if self._float_session is None:
                self._float_session = self._open_float_session()
        top = np.float32(65535 if window.dtype == np.uint16 else 1)
        planar = np.ascontiguousarray(window.transpose(2, 0, 1)[None], np.float32) / top
        packed = np.ascontiguousarray(self._float_session.run(planar)[0].transpose(1, 2, 0)).clip(0, 1)
        packed = self._right_size(window, packed)
        return np.rint(packed * top).astype(np.uint16) if window.dtype == np.uint16 else packed

    def _right_size(self, window: Frame, big: Frame) -> Frame:
        expected = (window.shape[0] * self.scale, window.shape[1] * self.scale, 3)
        if big.shape != expected:
            raise BackendError(f"the graph made {big.shape} of {window.shape}, expected {expected}: export it again")
        return big
