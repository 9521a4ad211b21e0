"""What each precision must reach against the PyTorch reference, or against the golden frame that it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .bundle import Precision
from .metrics import Difference


@dataclass(frozen=True)
class Gate:
    """The least that a precision must reach."""

    least_db: float
    """PSNR over all images, dB."""
    max_levels: int
    """Largest difference of any value, of 255."""
    share_off: float
    """Largest share of values that may differ: a biased rounding shows here first."""

    def admits(self, found: Difference) -> bool:
        """Whether ``found`` is good enough."""
        return (
            found.psnr_db >= self.least_db and found.max_levels <= self.max_levels and found.share_off <= self.share_off
        )


GATES: Mapping[Precision, Gate] = {"fp32": Gate(60.0, 1, 0.001), "fp16": Gate(50.0, 255, 1.0)}
