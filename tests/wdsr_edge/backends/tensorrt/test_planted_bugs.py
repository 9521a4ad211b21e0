"""Bugs planted in the session and in what it stands on, one by one: the test that is named with each must find it."""

from __future__ import annotations

import gc
import sys
import types
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.wdsr_edge.backends.tensorrt import (
    planted_in_contexts,
    planted_in_frames,
    planted_in_memory,
    planted_in_threads,
)
from tests.wdsr_edge.backends.tensorrt.schedules import OURS, Bugs, Code

pytestmark = pytest.mark.usefixtures("quick_collection")

BUGS: Bugs = {
    **planted_in_frames.BUGS,
    **planted_in_contexts.BUGS,
    **planted_in_memory.BUGS,
    **planted_in_threads.BUGS,
}


def with_bug(module: str, good: str, bad: str) -> Code:
    """The modules, with ``bad`` in place of ``good`` in one of them; each imports the others from among these."""
    found: dict[str, types.ModuleType] = {}
    with patch.dict(sys.modules):
        for name, original in OURS._asdict().items():
            source = Path(original.__file__).read_text()
            if name == module:
                assert source.count(good) == 1, f"{source.count(good)} places for this bug"
                source = source.replace(good, bad)
            made = types.ModuleType(original.__name__)
            made.__dict__.update(__package__=original.__package__, __file__=original.__file__)
            sys.modules[original.__name__] = made
            exec(compile(source, original.__file__, "exec"), made.__dict__)
            found[name] = made
    return Code(**found)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(onnx: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)  # of sessions that the bug left behind
    *change, finds = BUGS[name]
    code, found = with_bug(*change), False
    try:
        finds(onnx, code, tmp_path)
    except (NameError, ImportError):
        raise  # another bug than the one that was meant
    except (Exception, KeyboardInterrupt, pytest.fail.Exception):
        found = True
    gc.enable()
    gc.collect()
    assert found


def test_without_a_bug_they_find_nothing(onnx: Path, tmp_path: Path) -> None:
    code = with_bug("none", "", "")
    assert code.session.Cuda is code.cuda.Cuda is not OURS.cuda.Cuda
    for number, finds in enumerate({finds for _, _, _, finds in BUGS.values()}):
        finds(onnx, code, tmp_path / str(number))
