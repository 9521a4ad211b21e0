"""The interface that every backend offers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray


class Session(Protocol):
    """One graph, loaded into one engine. A batch is C-contiguous; the result belongs to the caller."""

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, H, W, 3] RGB to uint8 [N, H*s, W*s, 3]; a float graph: float32 NCHW in [0, 1] likewise."""

    def close(self) -> None:
        """Free what the engine holds; ``run`` is not called afterwards."""


class Pending(Protocol):
    """A batch on its way."""

    def result(self) -> NDArray[Any]:
        """Wait for the batch and return its result as ``run`` does; raises what ``run`` raises."""


@runtime_checkable
class AsyncSession(Session, Protocol):
    """A session that can work on several batches at a time."""

    in_flight: int
    """Their number."""

    def submit(self, batch: NDArray[Any]) -> Pending:
        """Start on ``batch``, which may be changed afterwards; batches are worked on in order."""
