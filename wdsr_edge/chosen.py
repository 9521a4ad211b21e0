"""Which engine and precision a bundle runs in here, what it is like, and how one knows."""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass
from typing import Any

from .bundle import Bundle
from .choices import Choice, graph_of, recall


@dataclass(frozen=True)
class Chosen:
    """One way to run a bundle, and why this one. Its text is one line."""

    backend: str
    """The engine."""
    precision: str
    """The precision in it."""
    asked: bool
    """True if backend and precision were both named, so that nothing was left to ``auto``."""
    ms: float | None
    """p50 of one frame, host to host, as measured here; None if it was not."""
    size: str
    """The frame, WIDTHxHEIGHT, and with how many threads if that was another number; empty if it was not measured."""
    golden_db: float | None
    """PSNR of the golden frame to the PyTorch reference, dB: as measured here, else as the bundle records it."""
    measured: str
    """Day of the measurement, such as 2026-01-31; empty if there was none."""

    @property
    def about(self) -> str:
        """Its figures, and how one knows."""
        figures = [f"{self.ms:.1f} ms for {self.size}"] if self.ms is not None else []
        if self.golden_db is not None:
            equal = math.isinf(self.golden_db)
            figures.append("equal to the reference" if equal else f"{self.golden_db:.1f} dB to the reference")
        if self.measured:
            why = f"measured here on {self.measured}"
        elif self.asked:
            why = "not measured here"
        else:
            why = "first in the documented order, since nothing was measured here: wdsr-edge benchmark MODEL times all"
        return "; ".join([", ".join(figures), why] if figures else [why])

    def __str__(self) -> str:
        return f"{'as asked,' if self.asked else 'auto is'} {self.backend} in {self.precision}: {self.about}"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def chosen(bundle: Bundle, choice: Choice, *, asked: bool = False, threads: int = 0) -> Chosen:
    """Description of ``choice`` with so many ``threads``; 0 is as many as the backend takes."""
    known = recall(bundle, choice, threads=threads)
    if known is None:
        return Chosen(*choice, asked, None, "", _recorded(bundle, choice), "")
    decibels = known.golden_db if known.golden_db is not None else _recorded(bundle, choice)
    size = known.size if known.threads == threads else f"{known.size} without a bound on threads"
    return Chosen(*choice, asked, known.ms, size, decibels, known.day)


def _recorded(bundle: Bundle, choice: Choice) -> float | None:
    """The golden frame's PSNR in the manifest, of several engines the worst; None if it does not say."""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
        found = [entry["golden_db"] for entry in bundle.manifest["parity"][graph_of(choice)].values()]
        return min(math.inf if decibels is None else float(decibels) for decibels in found)
    return None
