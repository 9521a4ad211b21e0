"""ONNX Runtime without its own log, whose every error is an exception as well.

It warns as soon as it is imported, of devices and processors that it cannot read in /sys, before a severity can be set
(github.com/microsoft/onnxruntime/issues/27092): that goes to the process's stderr, past Python's.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._errors import require

FATAL = 4
"""ONNX Runtime's highest severity, for which no line of its log is left."""

_THEIRS = re.compile(rb"\[[VIWEF]:onnxruntime|cpuinfo|^(\x1b\[[0-9;]*m)*$")
_WARNING = 2
_hushed: list[bool] = []


def hush() -> None:
    """From now on nothing that ONNX Runtime logs reaches stderr. For a program of our own, as it holds everywhere."""
    _hushed.append(True)


def load_onnxruntime(extra: str) -> Any:
    """Its module, told to send nothing; MissingExtraError names the ``extra`` that brings it."""
    # It reads that when it is imported. The threads that would send also keep a forked child from ending.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if _hushed and "onnxruntime" not in sys.modules:
        with without_its_log():
            ort = require("onnxruntime", extra)
    else:
        ort = require("onnxruntime", extra)
    if _hushed:
        ort.set_default_logger_severity(FATAL)
    getattr(ort, "disable_telemetry_events", lambda: None)()
    return ort


def usual_severity() -> int:
    """Of what ONNX Runtime logs beside sessions: its own default, unless it is hushed."""
    return FATAL if _hushed else _WARNING


def quiet_options(ort: Any) -> Any:
    """Options of a session that logs nothing."""
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    return options


@contextmanager
def without_its_log() -> Iterator[None]:
    """Hold back the process's stderr, and write it afterwards without ONNX Runtime's log lines."""
    try:
        before = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as said:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            said.seek(0)
            for line in said:
                if not _THEIRS.search(line.strip()):
                    os.write(2, line)
