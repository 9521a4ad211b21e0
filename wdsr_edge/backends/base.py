"""What an engine must offer."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray


class Session(Protocol):
    """One graph, loaded into one engine. A batch is C-contiguous; the result belongs to the caller."""

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """uint8 [N, H, W, 3] RGB to uint8 [N, H*s, W*s, 3]; a float graph: float32 NCHW in [0, 1] likewise."""

    def close(self) -> None:
        """Free what the engine holds; ``run`` is not called afterwards."""
