"""The real command line in a process of its own, and what a refusal looks like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def wdsr_edge(*arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    command = [sys.executable, "-m", "wdsr_edge", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def refused(done: Done, *words: str) -> None:
    """Exit code 2, one line on stderr with ``words``, nothing on stdout, no traceback."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("wdsr-edge: ")
    for word in words:
        assert word in done.stderr
