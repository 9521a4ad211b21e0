"""Which engine and precision is fastest here: measured by ``deploy`` and ``benchmark``, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ._errors import InputError
from ._files import replacing, user_cache
from .backends import ON_CPU, Backend, installed, version
from .bundle import Bundle, Graph, Precision

_ON_GPU: tuple[Precision, ...] = ("fp16", "int8", "fp32")


class Choice(NamedTuple):
    """One way to run a bundle."""

    backend: Backend
    """The engine."""
    precision: Precision
    """The precision in it."""


def graph_of(choice: Choice) -> Graph:
    """Which of a bundle's graphs it takes; InputError if there is no such precision."""
    if choice.precision not in get_args(Precision):
        known = ", ".join(get_args(Precision))
        raise InputError(f"precision must be auto or one of {known}, got {choice.precision!r}")
    return "int8-cpu" if choice.precision == "int8" and choice.backend in ON_CPU else choice.precision


def choices(
    bundle: Bundle, backend: Backend = "auto", precision: Precision | Literal["auto"] = "auto"
) -> tuple[Choice, ...]:
    """What can run ``bundle`` here, in the order that counts while nothing was measured.

    GPUs come first, in FP16 before INT8 and FP32; then CPUs, in FP32 before INT8. ``backend`` and ``precision`` narrow
    it down. FP16 on a CPU must be asked for: it is only slower there.
    """
    here = [engine for engine in installed() if backend in ("auto", engine)]
    ordered = [Choice(engine, kind) for engine in here if engine not in ON_CPU for kind in _ON_GPU]
    ordered += [Choice(engine, kind) for kind in get_args(Precision) for engine in here if engine in ON_CPU]
    return tuple(
        choice
        for choice in ordered
        if precision == choice.precision
        or (precision == "auto" and not (choice.precision == "fp16" and choice.backend in ON_CPU))
        if graph_of(choice) in bundle.graphs
    )


def remember(bundle: Bundle, p50_ms: Mapping[Choice, float]) -> None:
    """Keep what was measured of ``bundle`` on this machine; InputError if the cache cannot be written."""
    entries = [{"backend": c.backend, "precision": c.precision, "p50_ms": ms} for c, ms in p50_ms.items()]
    with replacing(_file(bundle)) as fresh:
        fresh.write_text(json.dumps({"model": bundle.name, "measured": entries}, indent=2) + "\n", encoding="utf-8")


def fastest(bundle: Bundle, among: tuple[Choice, ...]) -> Choice | None:
    """The fastest of ``among`` as ``remember`` was told; None if nothing of them was measured here."""
    try:
        measured = json.loads(_file(bundle).read_text(encoding="utf-8"))["measured"]
        times = {Choice(entry["backend"], entry["precision"]): float(entry["p50_ms"]) for entry in measured}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    known = [choice for choice in among if choice in times]
    return min(known, key=times.__getitem__) if known else None


def _file(bundle: Bundle) -> Path:
    """For these very files, this machine and these versions of the engines."""
    files = sorted(bundle.manifest["files"].items())
    engines = [(engine, version(engine)) for engine in installed()]
    key = hashlib.sha256(json.dumps([files, platform.node(), platform.machine(), engines]).encode()).hexdigest()
    return user_cache() / "speed" / f"{key[:32]}.json"
