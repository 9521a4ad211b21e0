"""Engines that were built on this machine, in a folder that only its owner can read and write.

An engine is native code, so that it is loaded from here or from a path that the caller vouches for, and from nowhere
else: never out of a bundle. An entry is a folder named after what was asked for and after what built it; it holds the
engine, its layers, and ``entry.json``, which says both in full and has the checksums.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._errors import InputError
from ..._files import private_folder, read_regular, read_text, replacing, sweep, user_cache
from .build import Built
from .config import EngineConfig

LIMIT_BYTES = 2 << 30
LEFT_S = 86400.0
"""Age of a scratch folder that no process can still be writing to, seconds."""

_LOG = logging.getLogger("wdsr_edge")

ENGINE, LAYERS, ENTRY = "engine", "layers", "entry.json"

_OURS = re.compile("([0-9a-f]{20}|timing|kernels)-[0-9a-f]{20}")
_LEFT = re.compile(rf"\.{_OURS.pattern}\..+")
"""Names of what is kept here, and of what a process that was killed left of writing it; others are not touched."""

_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors that reading a damaged entry raises."""


@dataclass(frozen=True)
class Builder:
    """The environment that an engine depends on, besides its options: it runs with exactly these versions."""

    library: str
    """``tensorrt`` or ``tensorrt-rtx``."""
    version: str
    """Of the library, in full."""
    gpu: str
    """Its name."""
    sm: int
    """Its compute capability, 89 for 8.9."""


@dataclass(frozen=True)
class Cached:
    """An engine out of the cache."""

    engine: bytes
    """The serialised engine."""
    layers: str
    """The builder's layer report; see ``audit``."""
    built: str
    """Why it had to be built, in words; empty if it lay there."""
    path: Path
    """Its entry."""
    seconds: float = 0.0
    """Time that building it took."""
    lighter: str = ""
    """Why it was built with less than was asked for; empty if it was not."""


class EngineCache:
    """A folder of engines. Processes may share one."""

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        """``folder``: ``engines`` in the user's cache by default; ``limit_bytes``: the longest unused go beyond it.

        Raises InputError if the folder cannot be had for its owner alone.
        """
        self.folder = private_folder(user_cache() / "engines" if folder is None else folder)
        self.limit_bytes = limit_bytes

    def get(
        self,
        onnx: bytes,
        precision: str,
        config: EngineConfig,
        builder: Builder,
        build: Callable[[bytes], Built],
        *,
        in_full: bool = False,
    ) -> Cached:
        """The engine for this very request and builder; ``build`` makes it of a timing cache if it is not here.

        ``in_full`` does not take one that was built with less than was asked for. Processes that ask for the same at
        once build once; the others wait. What cannot be kept is given all the same.
        Raises what ``build`` raises.
        """
        request = {**_graph(onnx, precision), "config": json.loads(json.dumps(config.as_dict()))}  # as it is in a file
        made_by = vars(builder)
        path = self.folder / f"{_digest(request)}-{_digest(made_by)}"
        with self._locked(path.name):
            found = self._read(path, request, made_by)
            if isinstance(found, Cached):
                if not (in_full and found.lighter):
                    return found
                found = f"it was built with less, as at first {found.lighter}"
            sweep([path])
            timing, measured = self._timing(made_by), b""
            with contextlib.suppress(OSError):
                measured = read_regular(timing)
            built = build(measured)
            try:
                self._write(path, request, made_by, built)
                if built.timing_cache:
                    with replacing(timing) as fresh:
                        fresh.write_bytes(built.timing_cache)
                self._shrink(path)
            except (InputError, OSError) as error:
                _LOG.warning("the engine is not kept: %s", error)
        return Cached(built.engine, built.layers, found, path, built.seconds, built.lighter)

    def configs(self, onnx: bytes, precision: str, builder: Builder) -> list[EngineConfig]:
        """Options of the cached engines of a graph for this builder, the latest used last."""
        found, wanted = [], _graph(onnx, precision)
        for path in self.entries():
            with contextlib.suppress(*_DAMAGED, InputError):
                entry = json.loads(read_text(path / ENTRY))
                if wanted.items() <= entry["request"].items() and entry["builder"] == vars(builder):
                    found.append(EngineConfig.from_dict(entry["request"]["config"]))
        return found

    def forget(self, cached: Cached) -> None:
        """Remove an entry that turned out to be of no use."""
        shutil.rmtree(cached.path, ignore_errors=True)

    def kernels(self, builder: Builder) -> Path:
        """The file for what TensorRT for RTX compiles at run time."""
        return self.folder / f"kernels-{_digest(vars(builder))}"

    def entries(self) -> list[Path]:
        """The folders of all entries, the longest unused first."""
        found = []
        for path in self.folder.glob(f"*/{ENTRY}"):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                if _OURS.fullmatch(path.parent.name):
                    found.append((path.stat().st_mtime_ns, path.parent))
        return [path for _, path in sorted(found)]

    def _read(self, path: Path, request: Mapping[str, Any], made_by: Mapping[str, Any]) -> Cached | str:
        """The entry at ``path``, or why it must be built."""
        if not path.is_dir():
            return self._reason(path, request, made_by)
        try:
            entry = json.loads(read_text(path / ENTRY))
            engine, layers = read_regular(path / ENGINE), read_regular(path / LAYERS)
            sums = {name: hashlib.sha256(data).hexdigest() for name, data in ((ENGINE, engine), (LAYERS, layers))}
            if entry["sha256"] != sums or entry["request"] != request or entry["builder"] != made_by:
                return "what lay in the cache is damaged"
            os.utime(path / ENTRY)
            seconds, lighter = float(entry["seconds"]), str(entry["lighter"])
            return Cached(engine, layers.decode(), "", path, seconds, lighter)
        except _DAMAGED:
            return "what lay in the cache is damaged"

    def _reason(self, path: Path, request: Mapping[str, Any], made_by: Mapping[str, Any]) -> str:
        """Why there is no entry: nobody asked before, or it was built by another library or for another GPU."""
        for other in reversed(self.entries()):
            try:
                entry = json.loads(read_text(other / ENTRY))
                if entry["request"] == request:
                    changes = [
                        f"{name} was {entry['builder'][name]}"
                        for name in made_by
                        if entry["builder"][name] != made_by[name]
                    ]
                    return f"the one in the cache is of another build: {', '.join(changes)}"
            except _DAMAGED:
                continue
        return "it was not built here before"

    def _write(self, path: Path, request: Mapping[str, Any], made_by: Mapping[str, Any], built: Built) -> None:
        parts = {ENGINE: built.engine, LAYERS: built.layers.encode()}
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
        entry = {
            "request": request,
            "builder": made_by,
            "sha256": sums,
            "seconds": built.seconds,
            "lighter": built.lighter,
        }
        with replacing(path, directory=True) as fresh:
            for name, data in parts.items():
                (fresh / name).write_bytes(data)
            (fresh / ENTRY).write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")

    def _shrink(self, kept: Path) -> None:
        """Remove the longest unused of all that is ours, but for ``kept``, until the rest is within the limit."""
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process removed it
                if _OURS.fullmatch(path.name):
                    found.append((_used(path), _size(path), path))
                elif _LEFT.fullmatch(path.name) and _used(path) < time.time() - LEFT_S:
                    shutil.rmtree(path, ignore_errors=True)
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit_bytes:
                return
            if path != kept:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                total -= size

    def _timing(self, made_by: Mapping[str, Any]) -> Path:
        """The file for what a builder measured of kernels."""
        return self.folder / f"timing-{_digest(made_by)}"

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Alone with one entry, among threads and processes; the system lets go for a process that is killed."""
        from filelock import FileLock

        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(FileLock(self.folder / f".lock-{name}"))
            except (OSError, NotImplementedError) as error:  # some network file systems have no locks
                _LOG.warning("%s cannot be locked (%s): an engine may be built twice", self.folder, error)
            yield


def _graph(onnx: bytes, precision: str) -> dict[str, str]:
    """The part of an entry that describes the graph."""
    return {"onnx": hashlib.sha256(onnx).hexdigest(), "precision": precision}


def _used(path: Path) -> float:
    """When an entry or another file of ours was last used."""
    entry = path / ENTRY
    return (entry if entry.is_file() else path).stat().st_mtime


def _size(path: Path) -> int:
    return sum(part.stat().st_size for part in (path, *path.glob("*")) if part.is_file())


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]
