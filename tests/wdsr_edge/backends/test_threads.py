"""How many threads a CPU backend computes with, from the call or from the environment, in both of its sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wdsr_edge
from tests.command_line import refused
from tests.command_line import wdsr_edge as run
from wdsr_edge import Bundle, InputError, loading
from wdsr_edge.backends import ON_CPU, Session, open_session, thread_count
from wdsr_edge.choices import Choice, choices, fastest, remember
from wdsr_edge.loading import ZOO
from wdsr_edge.measuring.comparison import compare

BUNDLE = Bundle.load(ZOO / "wdsr-b-1x32-x2")
FP32, INT8 = Choice("onnxruntime", "fp32"), Choice("onnxruntime", "int8")


def threads_of(session: Any) -> int:
    """What the engine says."""
    if hasattr(session, "_request"):
        return int(session._request.get_compiled_model().get_property("INFERENCE_NUM_THREADS"))
    return int(session._session.get_session_options().intra_op_num_threads)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that ``load`` opens."""
    found: list[Session] = []

    def open_session_and_keep(*arguments: Any, **options: Any) -> Session:
        found.append(open_session(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(loading, "open_session", open_session_and_keep)
    return found


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("by", ["call", "environment"])
def test_both_sessions_take_that_many(
    backend: Any, by: str, opened: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "environment":
        monkeypatch.setenv("WDSR_EDGE_THREADS", "1")
    with wdsr_edge.load(BUNDLE.path, backend=backend, threads=1 if by == "call" else None) as sr:
        monkeypatch.setenv("WDSR_EDGE_THREADS", "2")  # what held when it was loaded holds for the second as well
        sr(np.zeros((8, 8, 3), np.float32))
        assert [threads_of(session) for session in opened] == [1, 1]


def test_the_call_goes_before_the_environment(opened: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDSR_EDGE_THREADS", "2")
    wdsr_edge.load(BUNDLE.path, backend="onnxruntime", threads=np.int64(3)).close()  # type: ignore[arg-type]
    assert thread_count(1) == 1
    monkeypatch.setenv("WDSR_EDGE_THREADS", " ")
    assert thread_count() == 0


@pytest.mark.parametrize("threads", [0, -1, 1025, 10**30, 1.0, "1", True, [1], float("nan"), np.zeros(2)], ids=repr)
def test_anything_else_is_refused_in_one_line(threads: Any) -> None:
    with pytest.raises(InputError, match=r"^threads must be an integer from 1 to 1024") as caught:
        wdsr_edge.load(BUNDLE.path, threads=threads)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["0", "-1", "1025", "two", "1.5", "9" * 5000, "1\n2", "\u0663", "0x1"])
def test_an_environment_that_says_nonsense_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDSR_EDGE_THREADS", text)
    for call in (
        lambda: wdsr_edge.load(BUNDLE.path),
        lambda: compare(BUNDLE, (FP32,), [(8, 8)]),
        lambda: open_session("onnxruntime", BUNDLE.onnx("fp32")),
    ):
        with pytest.raises(InputError, match="WDSR_EDGE_THREADS must be an integer from 1 to 1024") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_what_was_timed_with_so_many_threads_is_what_auto_means_there(monkeypatch: pytest.MonkeyPatch) -> None:
    remember(BUNDLE, {FP32: 9.0, INT8: 4.0})
    assert fastest(BUNDLE, (FP32, INT8), threads=1) == INT8  # nothing else is known
    remember(BUNDLE, {FP32: 3.0, INT8: 4.0}, threads=1)
    assert fastest(BUNDLE, (FP32, INT8), threads=1) == FP32
    assert fastest(BUNDLE, (FP32, INT8)) == fastest(BUNDLE, (FP32, INT8), threads=2) == INT8
    for threads, choice in ((1, FP32), (None, INT8)):
        with wdsr_edge.load(BUNDLE.path, threads=threads) as sr:
            assert (sr.backend, sr.precision) == choice
    monkeypatch.setenv("WDSR_EDGE_THREADS", "1")
    with wdsr_edge.load(BUNDLE.path) as sr:
        assert (sr.backend, sr.precision) == FP32


def test_commands_take_them_and_remember_the_fastest_for_that_many(tmp_path: Path) -> None:
    photo, model = tmp_path / "small.png", str(BUNDLE.path)
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(photo)
    done = run("benchmark", model, "--threads", "1", "--size", "16x16", "--seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    timed = {
        (one["backend"], one["precision"]): one["sizes"][0]["p50_ms"] for one in json.loads(done.stdout)["choices"]
    }
    assert fastest(BUNDLE, choices(BUNDLE), threads=1) == min(timed, key=lambda choice: timed[choice])
    assert fastest(BUNDLE, choices(BUNDLE)) is None
    assert run("upscale", photo, "-m", model, "--threads", "1").returncode == 0
    refused(run("evaluate", model, tmp_path, "--threads", "0"), "threads")
    refused(run("verify", model, "--threads", "2000"), "threads")
