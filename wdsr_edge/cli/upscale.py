"""``wdsr-edge upscale``."""

from __future__ import annotations


def run() -> None:
    """Enlarge image files."""
