"""Engines: one file each, all behind the Session protocol."""

from .base import Session
from .choice import BUILT, Backend, installed, open_session, resolve

__all__ = ["BUILT", "Backend", "Session", "installed", "open_session", "resolve"]
