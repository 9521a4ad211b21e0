"""What a simulated GPU is made of: memory, streams, events and graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GUARD = 64
HOST_POISON, DEVICE_POISON, FREED, CANARY = 0xA5, 0x5A, 0xDD, 0xC3


class Fault(AssertionError):
    """Something that a real GPU may or may not punish."""


class Handle:
    """A stream, an event or a graph: no number, but it has one."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


class Block:
    """Memory with a guard on either side; what the GPU sees may have another address."""

    def __init__(self, gpu: int, size: int, poison: int) -> None:
        self.gpu, self.size = gpu, size
        self.bytes = np.full(size + 2 * GUARD, CANARY, np.uint8)
        self.view = self.bytes[GUARD : GUARD + size]
        self.view[:] = poison
        self.freed = False

    def fault(self) -> str:
        """What is wrong with it."""
        if (self.bytes[:GUARD] != CANARY).any() or (self.bytes[GUARD + self.size :] != CANARY).any():
            return "written beyond the end of memory"
        return "written after it was freed" if self.freed and (self.view != FREED).any() else ""


@dataclass(eq=False)
class Work:
    """One piece of work in a stream."""

    do: Callable[[], None]
    """Called when its turn comes."""
    uses: tuple[Any, ...]
    """Memory, events, graphs and contexts."""
    ms: int = 0
    """How long it takes at least."""
    begin: Callable[[int], None] = lambda stream: None
    """Called when it is put into a stream, or when the graph is launched that it was captured in."""


@dataclass(eq=False)
class Stream:
    gpu: int
    works: deque[Work] = field(default_factory=deque)


@dataclass(eq=False)
class Event:
    gpu: int
    pending: int = 0
    time: float | None = None


@dataclass(eq=False)
class Graph:
    gpu: int
    works: list[Work]


@dataclass(eq=False)
class Capture:
    stream: int
    works: list[Work] = field(default_factory=list)
    spoiled: bool = False
