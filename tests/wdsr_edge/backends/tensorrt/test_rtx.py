"""TensorRT for RTX in a session on a simulated GPU: its own CUDA graphs, and the kernels that it compiles at run time.

Tests that take ``code`` are what test_planted_bugs.py finds bugs with.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT
from tests.wdsr_edge.backends.tensorrt.schedules import RTX, SIZES, Code, empty, expected, frame, opened

pytestmark = pytest.mark.usefixtures("quick_collection")


def ran(onnx: Path, code: Code, trt: Any, *sizes: tuple[int, int], **options: Any) -> None:
    """Frames of some sizes, in a session of their own."""
    session = opened(trt.gpu, onnx, trt.release, code, trt=trt, **options)
    for size in sizes:
        batch = frame(Random(0), *size)
        assert (session.run(batch) == expected(onnx, batch)).all()
    session.close()
    del session
    empty(trt.gpu)


def simulated(release: str = RTX, **options: Any) -> Any:
    return SimulatedTensorRT(release, Device(Random(0).randrange), **options)


@pytest.mark.parametrize("graphs", [True, False])
def test_it_captures_by_itself_and_waits_for_its_kernels(onnx: Path, code: Code, graphs: bool) -> None:
    trt = simulated()
    ran(onnx, code, trt, SIZES[0], graphs=graphs)
    wanted = {
        "dynamic_shapes_kernel_specialization_strategy": "EAGER",
        "cuda_graph_strategy": "WHOLE_GRAPH_CAPTURE" if graphs else "DISABLED",
        "cache": False,
    }
    assert trt.configs == [wanted] * 2
    assert "cudaStreamBeginCapture" not in trt.gpu.calls


def test_full_tensorrt_has_no_such_options(onnx: Path, code: Code) -> None:
    trt = simulated("11.4.0")
    ran(onnx, code, trt, SIZES[0], kernels=Path("nowhere"))
    assert trt.configs == [{"cache": False}] * 2


def test_graphs_that_it_does_not_take_are_told_of(onnx: Path, caplog: pytest.LogCaptureFixture, code: Code) -> None:
    ran(onnx, code, simulated(deaf=True), SIZES[0])
    assert caplog.messages[0] == "TensorRT for RTX takes no CUDA graphs here: frames start more slowly"
    caplog.clear()
    ran(onnx, code, simulated(deaf=True), SIZES[0], graphs=False)
    ran(onnx, code, simulated(), SIZES[0])
    assert not caplog.messages


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kernels.bin"


def test_kernels_are_kept_for_the_next_session(onnx: Path, code: Code, file: Path) -> None:
    trts = [simulated() for _ in range(4)]
    ran(onnx, code, trts[0], *SIZES[:2], kernels=file)
    assert [len(trt.compiled) for trt in trts] == [2, 0, 0, 0]
    assert all(config["cache"] for config in trts[0].configs), "all contexts have the one cache"
    before = file.with_name("before")
    before.hardlink_to(file)
    ran(onnx, code, trts[1], *SIZES[:2], kernels=file)
    assert not trts[1].compiled, "what was kept is not compiled again"
    assert file.samefile(before), "nor written again"
    ran(onnx, code, trts[2], *SIZES[1:3], kernels=file)
    assert len(trts[2].compiled) == 1
    ran(onnx, code, trts[3], *SIZES[:3], kernels=file)
    assert not trts[3].compiled, "what came later is kept with the rest"


def test_kernels_are_kept_after_the_first_frames_of_a_shape(onnx: Path, code: Code, file: Path) -> None:
    """A program that is killed, as those at the edge are, has them the next time."""
    trt = simulated()
    session = opened(trt.gpu, onnx, RTX, code, trt=trt, kernels=file)
    for count, size in enumerate(SIZES[:2], 1):
        session.run(frame(Random(0), *size))
        assert len(file.read_bytes().splitlines()) == 1 + count
    session.close()


def test_kernels_that_are_refused_are_compiled_and_written_anew(onnx: Path, code: Code, file: Path) -> None:
    file.parent.mkdir()
    for stale in (b"of another driver", b""):
        file.write_bytes(stale)
        trt = simulated()
        ran(onnx, code, trt, SIZES[0], kernels=file)
        assert len(trt.compiled) == 1
        assert file.read_bytes().startswith(b"kernels\n")


def test_kernels_that_cannot_be_written_are_told_of(
    onnx: Path, code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran(onnx, code, simulated(), SIZES[0], kernels=tmp_path)
    assert caplog.messages[0].startswith("compiled kernels are not kept: ")
    assert "\n" not in caplog.messages[0]


def test_kernels_that_are_not_given_out_are_not_kept(onnx: Path, code: Code, file: Path) -> None:
    ran(onnx, code, simulated(refuse="serialize"), SIZES[0], kernels=file)
    assert not file.exists()


def test_an_interrupted_writing_of_kernels_leaves_nothing(onnx: Path, code: Code, file: Path) -> None:
    trt = simulated()
    session = opened(trt.gpu, onnx, RTX, code, trt=trt, kernels=file)

    def interrupt() -> None:
        raise KeyboardInterrupt

    trt.before["serialize"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        session.run(frame(Random(0), *SIZES[0]))
    assert not trt.gpu.in_use()
    session.close()
    empty(trt.gpu)


def test_kernels_that_are_there_already_are_not_written_again(onnx: Path, code: Code, file: Path) -> None:
    trt = simulated()
    session = opened(trt.gpu, onnx, RTX, code, trt=trt, kernels=file)
    for size in SIZES[:5]:
        session.run(frame(Random(0), *size))
    before = file.with_name("before")
    before.hardlink_to(file)
    session.run(frame(Random(0), *SIZES[0]))  # which had gone, and is made anew
    assert file.samefile(before)
    session.close()


def test_kernels_that_are_not_given_out_leave_those_that_were_kept(onnx: Path, code: Code, file: Path) -> None:
    ran(onnx, code, simulated(), SIZES[0], kernels=file)
    kept = file.read_bytes()
    ran(onnx, code, simulated(refuse="serialize"), SIZES[1], kernels=file)
    assert file.read_bytes() == kept


def test_kernels_that_are_used_are_the_latest(onnx: Path, code: Code, file: Path) -> None:
    ran(onnx, code, simulated(), SIZES[0], kernels=file)
    os.utime(file, (1, 1))
    ran(onnx, code, simulated(), SIZES[0], kernels=file)
    assert file.stat().st_mtime > 1


def test_a_cache_that_it_does_not_take_is_told_of(
    onnx: Path, code: Code, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran(onnx, code, simulated(refuse="set_runtime_cache"), SIZES[0], kernels=file)
    assert caplog.messages[0].startswith("TensorRT for RTX does not take its kernels from a file")
