"""Builds an engine in a process of its own, which may run out of memory or crash without harm to this one.

The child (``python -m wdsr_edge.backends.tensorrt.build_process FOLDER``) finds ``job.json``, ``graph.onnx`` and
perhaps ``timing.cache`` in a private folder, leaves ``engine``, ``layers`` and ``timing.cache`` there, and tells of
progress and faults in lines of JSON on stdout.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._errors import BackendError, InputError, MissingExtraError, WdsrError
from .build import Built, OnProgress, build
from .config import EngineConfig, Library
from .cuda import Cuda
from .library import open_library

_SIGNALS = {int(signal): signal.name for signal in signal.Signals}
_NTSTATUS_ERROR = 0xC0000000
"""From here on, Windows' exit codes are exceptions such as 0xC0000005, an access violation."""

_ERRORS: dict[str, type[WdsrError]] = {kind.__name__: kind for kind in (BackendError, InputError, MissingExtraError)}


def build_apart(
    library: Library,
    onnx: bytes,
    config: EngineConfig,
    *,
    precision: str,
    device: int = 0,
    timing_cache: bytes = b"",
    on_progress: OnProgress = lambda phase, done, total: None,
    on_retry: Callable[[str], None] = lambda reason: None,
) -> Built:
    """``engine_build.build`` in a child process, for GPU ``device`` unless the config names others.

    A child that dies is tried once more with less; see ``_lighter``.

    Raises what ``build`` raises, and BackendError if the second child dies or fails as well.
    """
    first = _run_child(library, onnx, config, precision, device, timing_cache, on_progress)
    if isinstance(first, Built):
        return first
    lighter = _lighter(library, config)
    less = f"at optimisation level {lighter.optimization_level}"
    less += f" with {lighter.workspace_mib} MiB of workspace" if library == "tensorrt" else ""
    on_retry(f"{first}; again {less}")
    try:
        second = _run_child(library, onnx, lighter, precision, device, timing_cache, on_progress)
    except WdsrError as error:
        raise BackendError(f"{first}, and with less: {error}") from error
    if isinstance(second, Built):
        return dataclasses.replace(second, lighter=f"{first}; this one is {less}")
    smaller = "a smaller --workspace, " if library == "tensorrt" else ""
    raise BackendError(
        f"{second}, twice: try {smaller}a lower --optimization or a smaller --size, and close what else takes memory"
    )


def python_environment() -> dict[str, str]:
    """For another Python in another folder, which is to import what this one does."""
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUTF8": "1"}


def _lighter(library: Library, config: EngineConfig) -> EngineConfig:
    """The same at optimisation level 1 at most, without tiling; for TensorRT with a quarter of the workspace.

    TensorRT for RTX counts an engine's activations as workspace, so that it would fail with less.
    """
    workspace = config.workspace_mib
    if library == "tensorrt":
        workspace = max(1, workspace // 4) if workspace else 256
    level = min(1, config.optimization_level)
    return dataclasses.replace(
        config, workspace_mib=workspace, optimization_level=level, tiling="none", l2_limit_mib=None
    )


def _run_child(
    library: Library,
    onnx: bytes,
    config: EngineConfig,
    precision: str,
    device: int,
    timing_cache: bytes,
    on_progress: OnProgress,
) -> Built | str:
    """Result of a child process, or how it died; raises the error that it reported."""
    with tempfile.TemporaryDirectory(prefix="wdsr-edge-") as name:
        folder = Path(name)
        job = {"library": library, "config": config.as_dict(), "precision": precision, "device": device}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (folder / "graph.onnx").write_bytes(onnx)
        (folder / "timing.cache").write_bytes(timing_cache)
        command = [sys.executable, "-m", "wdsr_edge.backends.tensorrt.build_process", name]
        with open(folder / "said", "w+b") as said:
            # In its own folder, as Python imports from where it starts.
            pipe, env = subprocess.PIPE, python_environment()
            with subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=said, cwd=name, env=env, encoding="utf-8", errors="replace"
            ) as child:
                report: dict[str, Any] = {}
                try:
                    assert child.stdout is not None
                    for line in child.stdout:
                        report = _read(line) or report
                        if "phase" in report:
                            on_progress(report["phase"], report["done"], report["total"])
                except BaseException:
                    child.kill()
                    raise
            said.seek(0)
            words = said.read().decode("utf-8", "replace")
        if "error" in report:
            raise _ERRORS.get(report["error"], BackendError)(report["text"])
        if child.returncode or "seconds" not in report:
            return _death(library, child.returncode, words)
        engine, layers, cache = ((folder / part).read_bytes() for part in ("engine", "layers", "timing.cache"))
        return Built(engine, layers.decode(), cache, report["seconds"])


def _read(line: str) -> dict[str, Any] | None:
    """A line of the child's, unless a library wrote it."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _death(library: Library, code: int, words: str) -> str:
    name = _SIGNALS.get(-code, f"signal {-code}") if code < 0 else hex(code)
    if name == "SIGKILL":
        return f"{library} was killed while it compiled, usually because memory ran out"
    if code < 0 or code >= _NTSTATUS_ERROR:
        return f"{library} crashed while it compiled ({name})"
    last = next((line for line in reversed(words.splitlines()) if line.strip()), "it said nothing")
    return f"{library} stopped while it compiled, with code {code} ({last.strip()[:200]})"


def main() -> None:
    """The child."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    config = EngineConfig.from_dict(job["config"])
    try:
        trt = open_library(job["library"])
        made = build(
            job["library"],
            trt,
            (folder / "graph.onnx").read_bytes(),
            config,
            precision=job["precision"],
            free_memory=None if config.sm else Cuda(job["device"]).free_memory(),  # before any TensorRT object
            timing_cache=(folder / "timing.cache").read_bytes(),
            on_progress=lambda phase, done, total: _tell(phase=phase, done=done, total=total),
        )
    except WdsrError as error:
        _tell(error=type(error).__name__, text=str(error))
        return
    for name, data in (("engine", made.engine), ("layers", made.layers.encode()), ("timing.cache", made.timing_cache)):
        (folder / name).write_bytes(data)
    _tell(seconds=made.seconds)


def _end_with_parent(folder: Path) -> None:
    """Stdin ends when the parent does, however that came about."""
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _tell(**report: object) -> None:
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
