"""Engines: one file each, all behind the Session protocol."""

from .base import Session
from .choice import BUILT, ON_CPU, Backend, installed, open_session, resolve

__all__ = ["BUILT", "ON_CPU", "Backend", "Session", "installed", "open_session", "resolve"]
