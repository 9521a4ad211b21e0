"""A build in a process of its own: what it says arrives, and its death is an error or a second try, not ours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wdsr_edge import BackendError, Bundle, InputError, MissingExtraError
from wdsr_edge.backends.tensorrt import build_process
from wdsr_edge.backends.tensorrt.build import Built
from wdsr_edge.backends.tensorrt.build_process import _death, build_apart
from wdsr_edge.backends.tensorrt.config import EngineConfig, Profile
from wdsr_edge.loading import find_bundle

CONFIG = EngineConfig((Profile.static(16, 24),), sm=(89,))
ONNX = Bundle.load(find_bundle("wdsr-b-1x32-x2")).onnx("fp16")


def apart(onnx: bytes = ONNX, config: EngineConfig = CONFIG, **options: Any) -> Built:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    return build_apart("tensorrt-rtx", onnx, config, precision="fp16", **options)


def dying(folder: Path, monkeypatch: pytest.MonkeyPatch, how: str, times: int) -> Path:
    """In place of Python: a program that dies so many times, and keeps what it was asked for."""
    script = folder / "python"
    script.write_text(
        f"""#!/bin/sh
cp "$3/job.json" {folder}/job$(ls {folder} | grep -c job).json
if [ $(ls {folder} | grep -c job) -le {times} ]; then {how}; fi
exec {sys.executable} "$@"
"""
    )
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    return folder


def test_an_engine_and_its_layers_arrive() -> None:
    phases: list[tuple[str, int, int]] = []
    made = apart(on_progress=lambda *report: phases.append(report))
    assert len(made.engine) > 100_000
    assert made.layers.startswith("Layers:\n")
    assert made.seconds > 0
    assert phases[0] == ("Building engine", 0, 6)
    assert phases[-1] == ("Building engine", 6, 6)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    apart()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill -9 $$", "was killed while it compiled, usually because memory ran out"),
        ("kill -SEGV $$", "crashed while it compiled (SIGSEGV)"),
        ("echo no room >&2; exit 3", "stopped while it compiled, with code 3 (no room)"),
        ("exit 0", "stopped while it compiled, with code 0 (it said nothing)"),
    ],
)
def test_a_child_that_dies_is_tried_again_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, words: str
) -> None:
    dying(tmp_path, monkeypatch, how, 1)
    reasons: list[str] = []
    made = apart(
        config=EngineConfig(CONFIG.profiles, workspace_mib=400, tiling="fast", l2_limit_mib=4, sm=(89,)),
        on_retry=reasons.append,
    )
    assert len(made.engine) > 100_000
    assert reasons == [f"tensorrt-rtx {words}; again at optimisation level 1"]
    assert made.lighter == f"tensorrt-rtx {words}; this one is at optimisation level 1"
    first, second = ((tmp_path / f"job{i}.json").read_text() for i in range(2))
    assert '"workspace_mib": 400' in first
    assert '"workspace_mib": 400' in second, "TensorRT for RTX takes activations out of it"
    assert '"optimization_level": 1' in second
    assert '"tiling": "none", "l2_limit_mib": null' in second


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0xC0000005, "crashed while it compiled (0xc0000005)"),
        (0xC00000FD, "crashed while it compiled (0xc00000fd)"),
        (-99, "crashed while it compiled (signal 99)"),
        (1, "stopped while it compiled, with code 1"),
    ],
)
def test_how_a_child_died_on_windows_too(code: int, words: str) -> None:
    """An exit code there is an exception's number; a signal here may have no name."""
    assert words in _death("tensorrt", code, "")


def test_two_deaths_are_an_error_that_says_what_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying(tmp_path, monkeypatch, "kill -9 $$", 2)
    with pytest.raises(BackendError, match=r"was killed .*, twice: try a lower --optimization or a smaller --size"):
        apart()


@pytest.mark.parametrize(
    ("onnx", "sm", "kind", "words"),
    [
        (b"nonsense", 89, BackendError, "does not take the graph"),
        (ONNX[:-50], 89, BackendError, "tensorrt-rtx"),
        (ONNX, 87, InputError, "does not compile for SM87"),
    ],
    ids=["nonsense", "cut off", "no such target"],
)
def test_what_the_child_refuses_is_refused_here(onnx: bytes, sm: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        apart(onnx, EngineConfig(CONFIG.profiles, sm=(sm,)))
    assert "\n" not in str(caught.value)


def test_a_library_that_is_not_there_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'wdsr-edge\[tensorrt\]'"):
        build_apart("tensorrt", ONNX, EngineConfig(CONFIG.profiles), precision="fp16")


def test_tensorrt_is_given_less_memory() -> None:
    for given, left in ((None, 256), (400, 100), (2, 1)):
        assert build_process._lighter("tensorrt", EngineConfig(CONFIG.profiles, given)).workspace_mib == left


def test_a_second_child_that_fails_tells_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying(tmp_path, monkeypatch, "kill -9 $$", 1)
    with pytest.raises(BackendError, match=r"was killed while .*, and with less: .* does not compile for SM87"):
        apart(config=EngineConfig(CONFIG.profiles, sm=(87,)))


def test_too_little_workspace_says_to_give_more() -> None:
    with pytest.raises(BackendError, match=r"built no engine .*OutOfMemory.*: give more --workspace"):
        apart(config=EngineConfig((Profile.static(270, 480),), workspace_mib=16, sm=(89,)))


def test_code_in_the_working_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    apart()
    assert not (tmp_path / "ran").exists()


PARENT = """
from tests.wdsr_edge.backends.tensorrt.test_build_process import CONFIG, ONNX, build_apart

build_apart("tensorrt-rtx", ONNX, CONFIG, precision="fp16")
"""


def test_a_child_ends_with_its_parent_and_leaves_nothing(tmp_path: Path) -> None:
    """A library that takes a minute to load stands in for a long build."""
    slow, scratch = tmp_path / "slow", tmp_path / "scratch"
    slow.mkdir()
    scratch.mkdir()
    (slow / "tensorrt_rtx.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(slow), *(path for path in sys.path if path)]),
        "TMPDIR": str(scratch),
    }
    with subprocess.Popen([sys.executable, "-c", PARENT], env=env) as parent:
        wait_for(lambda: any(scratch.iterdir()) and children(parent.pid))
        (child,) = children(parent.pid)
        time.sleep(1)
        parent.kill()
    wait_for(lambda: not list(scratch.iterdir()) and not Path(f"/proc/{child}").exists())


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_an_interrupted_build_leaves_no_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying(tmp_path, monkeypatch, """echo '{"phase": "x", "done": 0, "total": 1}'; exec sleep 60""", 1)

    def interrupt(*report: object) -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        apart(on_progress=interrupt)
    assert time.monotonic() - start < 30
