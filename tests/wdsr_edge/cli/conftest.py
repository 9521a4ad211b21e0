"""The command line in this process: torch is imported once for all tests."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import Done
from wdsr_edge.cli import main

Command = Callable[..., Done]


@pytest.fixture
def wdsr_edge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The real entry point in this process, in an empty folder."""
    for name in ("WDSR_EDGE_DATA", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["wdsr-edge", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            return Done(int(ended.code or 0), *capsys.readouterr())
        finally:
            signal.signal(signal.SIGTERM, before)
        raise AssertionError("main came back")

    return command
