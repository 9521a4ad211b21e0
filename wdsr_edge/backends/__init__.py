"""Engines: one file each, all behind the Session protocol."""

from .base import AsyncSession, Session
from .options import EngineReport, GpuOptions, SelfTest
from .registry import (
    BACKENDS,
    BUILT_FOR_SHAPES,
    COMPILED,
    ON_CPU,
    Backend,
    check_backend,
    has_gpu,
    installed,
    is_installed,
    open_session,
    version,
)
from .threads import thread_count

__all__ = [
    "BACKENDS",
    "BUILT_FOR_SHAPES",
    "COMPILED",
    "ON_CPU",
    "AsyncSession",
    "Backend",
    "EngineReport",
    "GpuOptions",
    "SelfTest",
    "Session",
    "check_backend",
    "has_gpu",
    "installed",
    "is_installed",
    "open_session",
    "thread_count",
    "version",
]
