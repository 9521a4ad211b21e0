"""Which engine and precision is fastest here: measured by ``deploy`` and ``benchmark``, kept in the user's cache."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ._errors import InputError
from ._files import read_text, replacing, user_cache
from .backends import ON_CPU, Backend, installed, version
from .bundle import Bundle, Graph, Precision
from .machine import identity

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
    """Ways to run ``bundle`` here, in the documented order, which counts until something is measured.

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


class Known(NamedTuple):
    """Details of a measured choice."""

    size: str
    """A frame, WIDTHxHEIGHT."""
    ms: float
    """p50 for it."""
    golden_db: float | None
    """PSNR of the golden frame, dB; None if it is not known."""
    day: str = ""
    """When, such as 2026-01-31."""
    threads: int = 0
    """With how many; 0 is as many as the backend takes."""


def remember(
    bundle: Bundle, p50_ms: Mapping[Choice, float], *, threads: int = 0, known: Mapping[Choice, Known] | None = None
) -> None:
    """Keep what was measured of ``bundle`` on this machine with so many threads; 0 is as many as a backend takes.

    ``p50_ms`` is what is compared, ``known`` what a user is told, of which the day is today. Raises InputError if the
    cache cannot be written.
    """
    day = datetime.date.today().isoformat()
    told = {choice: one._replace(day=day, threads=threads)._asdict() for choice, one in (known or {}).items()}
    entries = [{**choice._asdict(), "p50_ms": ms, **told.get(choice, {})} for choice, ms in p50_ms.items()]
    with replacing(_file(bundle, threads)) as fresh:
        fresh.write_text(json.dumps({"model": bundle.name, "measured": entries}, indent=2) + "\n", encoding="utf-8")


def recall(bundle: Bundle, choice: Choice, *, threads: int = 0) -> Known | None:
    """Measurement of ``choice`` that ``remember`` kept; None if there is none."""
    for count in dict.fromkeys((threads, 0)):
        for entry in _entries(_file(bundle, count)):
            with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
                if Choice(entry["backend"], entry["precision"]) == choice:
                    decibels = entry["golden_db"]
                    decibels = None if decibels is None else float(decibels)
                    return Known(str(entry["size"]), float(entry["ms"]), decibels, str(entry["day"]), count)
    return None


def fastest(bundle: Bundle, among: tuple[Choice, ...], *, threads: int = 0) -> Choice | None:
    """The fastest of ``among`` as ``remember`` was told; None if nothing of them was measured here.

    What was measured with so many ``threads`` counts; else what was measured with as many as a backend takes.
    """
    for count in dict.fromkeys((threads, 0)):
        times = _measured(_file(bundle, count))
        known = [choice for choice in among if choice in times]
        if known:
            return min(known, key=times.__getitem__)
    return None


def _measured(file: Path) -> dict[Choice, float]:
    """Measurements that ``remember`` kept: p50 in ms of each choice; empty if the file is missing or damaged."""
    try:
        return {Choice(entry["backend"], entry["precision"]): float(entry["p50_ms"]) for entry in _entries(file)}
    except (ValueError, KeyError, TypeError, OverflowError):
        return {}


def _entries(file: Path) -> list[Any]:
    """One for each choice; none if the file is not there or damaged."""
    try:
        measured = json.loads(read_text(file))["measured"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return []
    return measured if isinstance(measured, list) else []


def _file(bundle: Bundle, threads: int) -> Path:
    """For these very files, this machine, these versions of the engines and so many threads."""
    files = sorted(bundle.manifest["files"].items())
    engines = [(engine, version(engine)) for engine in installed()]
    key = hashlib.sha256(json.dumps([files, identity(), engines]).encode()).hexdigest()
    suffix = f"-{threads}" if threads else ""
    return user_cache() / "speed" / f"{key[:32]}{suffix}.json"
