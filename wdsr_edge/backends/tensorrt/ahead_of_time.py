"""Engines for another machine, compiled with no GPU at hand, and what to run on a device that compiles for itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..._errors import InputError
from ..._files import replacing
from ...bundle import Bundle, Precision, onnx_name
from .audit import Audit, audit, check_graph
from .build import Built, OnProgress, check_dla
from .build_process import build_apart
from .config import EngineConfig
from .library import open_library
from .targets import Target, compile_line, trtexec_line


def compile_for(
    bundle: Bundle,
    kind: Precision,
    target: Target,
    config: EngineConfig,
    folder: Path,
    *,
    on_progress: OnProgress,
    on_retry: Callable[[str], None],
) -> dict[str, Any]:
    """Build one engine, audit it, and write it into ``folder`` with a JSON file of what it is, which is returned.

    ``engine`` in that is None, and nothing is written, if the audit finds ``faults``. Raises WdsrError.
    """
    onnx = bundle.onnx(kind)
    check_graph(onnx, kind)
    version = open_library(target.library).__version__
    shapes = "_".join(map(str, config.profiles))
    onnx_sha256 = hashlib.sha256(onnx).hexdigest()
    request = json.dumps([onnx_sha256, config.as_dict()])
    identity = hashlib.sha256(request.encode()).hexdigest()[:8]
    path = folder / f"{bundle.name}-{kind}-{shapes}-{target.name}-{target.library}-{version}-{identity}.engine"
    if len(path.name) > 200:
        raise InputError(f"too many sizes for the name of one engine: {path.name[:100]}...: compile fewer at a time")
    built = build_apart(target.library, onnx, config, precision=kind, on_progress=on_progress, on_retry=on_retry)
    found = audit(onnx, built.layers, len(config.profiles))
    entry = _entry(kind, target, config, built, found) | {"onnx_sha256": onnx_sha256}
    if found.passed:
        entry["engine"] = str(_write(path, built, entry | {"library": f"{target.library} {version}"}))
    return entry


def _entry(kind: Precision, target: Target, config: EngineConfig, built: Built, found: Audit) -> dict[str, Any]:
    return {
        "target": target.name,
        "precision": kind,
        "engine": None,
        "bytes": len(built.engine),
        "sha256": hashlib.sha256(built.engine).hexdigest(),
        "seconds": round(built.seconds, 3),
        "config": config.as_dict(),
        "lighter": built.lighter,
        "convolutions": found.convolutions,
        "faults": list(found.faults),
        "reformats": list(found.reformats),
        "widened": list(found.widened),
    }


def _write(path: Path, built: Built, entry: dict[str, Any]) -> Path:
    for target, data in (
        (path, built.engine),
        (path.with_suffix(".json"), json.dumps(entry | {"engine": path.name}, indent=2).encode() + b"\n"),
    ):
        with replacing(target) as fresh:
            fresh.write_bytes(data)
    return path


def commands_for(bundle: Bundle, kinds: Sequence[Precision], target: Target, config: EngineConfig) -> list[str]:
    """Commands to run on the device, in the folder that the bundle was copied into: one, or trtexec for each.

    Raises InputError for a DLA that it has not, or that does not run this.
    """
    if config.dla is not None:
        if config.dla >= target.dla_cores:
            raise InputError(f"there is no DLA {config.dla}: a {target.device} has {target.dla_cores}")
        for kind in kinds:
            check_dla(config, kind)
    folder = bundle.path.resolve().name
    shapes = "_".join(map(str, config.profiles))
    return [
        compile_line(f"{folder}/", kinds, config),
        *(
            trtexec_line(f"{folder}/{onnx_name(kind)}", f"{bundle.name}-{kind}-{shapes}-{target.name}.engine", config)
            for kind in kinds
        ),
    ]
