"""Fixtures that several test files share. Kept free of torch: each test file imports what it needs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Small networks are slower on two threads than on one; a machine that sets its own number keeps it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a shell starts in the background is deaf to Ctrl-C, and so would be the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "wdsr-edge", deadline=None, max_examples=30, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("wdsr-edge")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads what was measured or cached before, nor leaves anything of that kind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache", numbered=True)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The images that lie beside the project, where there are any."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository: the standard images are not distributed with it")
    return folder
