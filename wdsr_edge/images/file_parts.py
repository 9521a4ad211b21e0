"""A file without some of its parts, as a file."""

from __future__ import annotations

import io
from bisect import bisect_right
from typing import Any, BinaryIO

_MOST_PARTS = 10_000


class FileParts(io.RawIOBase):
    """Parts of a seekable file, one after the other, to be read like a file."""

    def __init__(self, file: BinaryIO, stop: int) -> None:
        """At first the bytes of ``file`` before ``stop``."""
        self._file = file
        self._kept = [(0, stop)]
        self._begins = [0, stop]
        self._place = 0

    def keep(self, start: int, stop: int) -> None:
        """Add the bytes from ``start`` to ``stop``; SyntaxError if there are too many parts."""
        if start == self._kept[-1][1]:
            self._kept[-1] = self._kept[-1][0], stop
            self._begins[-1] += stop - start
        elif len(self._kept) < _MOST_PARTS:
            self._kept.append((start, stop))
            self._begins.append(self._begins[-1] + stop - start)
        else:
            raise SyntaxError("too many chunks or segments")

    def as_file(self) -> io.BufferedReader:
        """The kept parts, buffered."""
        return io.BufferedReader(self, 1 << 16)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The place that is read next."""
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, as ``io.IOBase.seek`` does."""
        self._place = max(0, offset + (0, self._place, self._begins[-1])[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer``, as ``io.RawIOBase.readinto`` does."""
        index = bisect_right(self._begins, self._place) - 1
        if index >= len(self._kept):
            return 0
        offset = self._place - self._begins[index]
        start, stop = self._kept[index]
        self._file.seek(start + offset)
        data = self._file.read(min(len(buffer), stop - start - offset))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
