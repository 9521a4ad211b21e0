"""What is fastest is measured, remembered, and then what auto means."""

from __future__ import annotations

import json
import platform
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import wdsr_edge
from tests.bundles import calibration_within_budget, edit
from wdsr_edge import Bundle, InputError
from wdsr_edge._files import user_cache
from wdsr_edge.backends import installed
from wdsr_edge.choices import Choice, choices, fastest, remember
from wdsr_edge.loading import open_bundle
from wdsr_edge.measuring import comparison
from wdsr_edge.measuring.comparison import compare
from wdsr_edge.proof.gates import GATES, Gate

FP32, INT8 = Choice("onnxruntime", "fp32"), Choice("onnxruntime", "int8")


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Bundle:
    """With an INT8 graph for CPUs, which is the FP32 one."""
    copy = Bundle.load(shutil.copytree(good, tmp_path / "copy"))
    files = {name: copy.read(name) for name in copy.manifest["files"]}
    parity = {**copy.details["parity"], "int8-cpu": {"onnxruntime": {"psnr_db": None, "golden_db": None}}}
    details = {**copy.details, "parity": parity, "calibration": calibration_within_budget()}
    return wdsr_edge.bundle.write_bundle(
        tmp_path / "int8", copy.config, {**files, "int8-cpu.onnx": files["fp32.onnx"]}, details
    )


def test_choices_are_what_the_bundle_holds_and_the_machine_has(bundle: Bundle, good: Path) -> None:
    assert choices(bundle) == tuple(Choice(engine, kind) for kind in ("fp32", "int8") for engine in installed())
    assert choices(Bundle.load(good)) == tuple(Choice(engine, "fp32") for engine in installed())
    assert choices(bundle, "onnxruntime") == (FP32, INT8)
    assert choices(bundle, precision="fp16")[0] == ("onnxruntime", "fp16")
    assert choices(bundle, "tensorrt") == ()


def test_auto_is_the_documented_order_until_something_was_measured(bundle: Bundle) -> None:
    assert fastest(bundle, choices(bundle)) is None
    with wdsr_edge.load(bundle.path) as sr:
        assert (sr.backend, sr.precision) == FP32
    remember(bundle, {FP32: 9.0, INT8: 4.0})
    with wdsr_edge.load(bundle.path) as sr:
        assert (sr.backend, sr.precision) == INT8
    with wdsr_edge.load(bundle.path, precision="fp32") as sr:
        assert (sr.backend, sr.precision) == FP32
    remember(bundle, {FP32: 9.0, INT8: 9.5})
    with wdsr_edge.load(bundle.path, backend="onnxruntime") as sr:
        assert (sr.backend, sr.precision) == FP32


def test_another_bundle_of_that_name_knows_nothing(bundle: Bundle, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(bundle, {FP32: 9.0, INT8: 4.0})
    assert fastest(Bundle.load(good), (FP32, INT8)) is None
    monkeypatch.setattr("wdsr_edge.choices.version", lambda engine: "another")
    assert fastest(bundle, (FP32, INT8)) is None


def test_what_was_measured_is_found_again_under_another_host_name(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container has at each start."""
    remember(bundle, {FP32: 9.0, INT8: 4.0})
    monkeypatch.setattr(platform, "node", lambda: "another")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    monkeypatch.setenv("HOSTNAME", "another")
    assert fastest(bundle, (FP32, INT8)) == INT8
    monkeypatch.setattr("wdsr_edge.machine.usable_cores", lambda root: 1000)
    assert fastest(bundle, (FP32, INT8)) is None


BIG = '{"measured": [{"backend": "onnxruntime", "precision": "fp32", "p50_ms": ' + 400 * "9" + "}]}"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"measured": [{}]}', '{"measured": 3}', '{"measured": [3]}', "\0", 100_000 * "[", BIG],
    ids=lambda text: text[:20],
)
def test_a_damaged_memory_is_none(bundle: Bundle, text: str) -> None:
    remember(bundle, {FP32: 9.0, INT8: 4.0})
    (file,) = (user_cache() / "speed").iterdir()
    file.write_text(text)
    assert fastest(bundle, (FP32, INT8)) is None
    wdsr_edge.load(bundle.path).close()


def test_a_cache_that_cannot_be_written(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write"):
        remember(bundle, {FP32: 9.0})
    assert fastest(bundle, (FP32,)) is None


def test_each_choice_is_timed_in_turns(bundle: Bundle) -> None:
    steps: list[int] = []
    among = choices(bundle)
    found = compare(bundle, among, [(8, 8), (9, 12)], seconds=0, on_step=lambda: steps.append(0))
    assert [one.choice for one in found] == list(among)
    for one in found:
        assert not one.fault
        assert one.golden is not None
        assert one.golden.max_levels <= 1
        assert list(one.latency) == [(8, 8), (9, 12)]
        assert all(latency.runs >= 10 for latency in one.latency.values())
    assert len(steps) == 2


def test_what_misses_the_golden_frame_is_not_timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As INT8 would on a CPU whose products saturate."""
    edit(bundle.path, lambda manifest: manifest["parity"]["int8-cpu"]["onnxruntime"].update(golden_db=400.0))
    monkeypatch.setattr("wdsr_edge.proof.gates.EQUAL_DB", 400.0)
    found = compare(Bundle.load(bundle.path), (FP32, INT8), [(8, 8)], seconds=0)
    assert [bool(one.fault) for one in found] == [False, True]
    assert "golden frame" in found[1].fault
    assert found[1].latency == {}
    monkeypatch.setitem(GATES, "fp32", Gate(1000.0, 0, 0.0))  # type: ignore[index]
    assert compare(bundle, (FP32,), [(8, 8)], seconds=0)[0].fault


@pytest.mark.parametrize("figure", [10**400, "x", []])
def test_what_is_recorded_of_one_graph_does_not_stop_the_others(bundle: Bundle, figure: Any) -> None:
    bundle.manifest["parity"]["int8-cpu"]["onnxruntime"]["golden_db"] = figure
    found = compare(bundle, (FP32, INT8), [(8, 8)], seconds=0)
    assert [bool(one.fault) for one in found] == [False, True]
    assert "int8-cpu" in found[1].fault or "golden frame" in found[1].fault


def test_a_bug_in_one_way_does_not_hide_the_others(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = comparison.open_bundle

    def failing(found: Bundle, choice: Choice, **options: Any) -> Any:
        if choice == INT8:
            raise TypeError("incompatible function arguments:\n 1. (self, int)")
        return opened(found, choice, **options)

    monkeypatch.setattr(comparison, "open_bundle", failing)
    good, bad = compare(bundle, (FP32, INT8), [(8, 8)], seconds=0)
    assert not good.fault
    assert bad.fault.startswith("TypeError in test_choices.py:")
    assert bad.fault.endswith(": incompatible function arguments: 1. (self, int): please report it")


def test_an_engine_that_fails_on_a_size_is_not_timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    run = wdsr_edge.SuperResolver.__call__

    def failing(self: Any, frame: Any, *options: Any) -> Any:
        if self.precision == "int8" and frame.shape[0] == 9:
            raise wdsr_edge.BackendError("out of memory")
        return run(self, frame, *options)

    monkeypatch.setattr(wdsr_edge.SuperResolver, "__call__", failing)
    found = compare(bundle, (FP32, INT8), [(8, 8), (9, 9)], seconds=0)
    assert [one.fault for one in found] == ["", "out of memory"]
    assert [len(one.latency) for one in found] == [2, 0]


def test_an_engine_that_fails_is_not_timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(bundle: Bundle, choice: Choice, **options: Any) -> Any:
        if choice == INT8:
            raise wdsr_edge.BackendError("no such instruction")
        return open_bundle(bundle, choice, **options)

    monkeypatch.setattr("wdsr_edge.measuring.comparison.open_bundle", opened)
    found = compare(bundle, (FP32, INT8), [(8, 8)], seconds=0)
    assert (found[1].fault, found[1].golden, found[0].fault) == ("no such instruction", None, "")
    assert json.dumps([one.fault for one in found])
