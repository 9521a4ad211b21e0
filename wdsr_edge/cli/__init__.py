"""The ``wdsr-edge`` command."""

from .app import main

__all__ = ["main"]
