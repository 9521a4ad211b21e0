"""Commands and programs on a machine with a simulated GPU: the whole way, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.command_line import Done, refused, wdsr_edge
from tests.simulated_machine import environment
from wdsr_edge.images.files import read_rgb
from wdsr_edge.images.samples import PHOTOS, frame_of_size

MODEL = "wdsr-b-1x32-x2"
QUICK = ("--size", "64x48", "--seconds", "0")


def first_run(folder: Path, *options: str, **machine: Any) -> Done:
    return wdsr_edge("compile", MODEL, *QUICK, *options, env=environment(folder, **machine), cwd=folder)


def program(folder: Path, text: str, **machine: Any) -> str:
    """What a program prints on such a machine."""
    return run_program(folder, text, **machine)[0].strip()


def run_program(folder: Path, text: str, **machine: Any) -> tuple[str, str]:
    """What a program writes to stdout and stderr."""
    code = f"import numpy as np, os, wdsr_edge\nfrom wdsr_edge.images.samples import frame_of_size\n{text}"
    env = environment(folder, **machine)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("release", ["10.3.0", "rtx-1.7.1"])
def test_a_first_run_builds_proves_and_times(tmp_path: Path, release: str) -> None:
    done = first_run(tmp_path, "--json", "--portrait", release=release)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["clocks"].keys() >= {"power_mode", "gpu_mhz", "throttled"}
    library = "tensorrt-rtx" if release.startswith("rtx") else "tensorrt"
    assert [(one["backend"], one["precision"]) for one in report["choices"]] == [
        (library, precision) for precision in ("fp16", "int8", "fp32")
    ]
    for one in report["choices"]:
        assert not one["fault"]
        assert [(size["width"], size["height"]) for size in one["sizes"]] == [(64, 48), (48, 64)]
        assert all(size["p50_ms"] > 0 and size["stream_ms"] > 0 and size["engine_ms"] > 0 for size in one["sizes"])
        assert [engine["built"] for engine in one["engines"]] == 2 * ["it was not built here before"]
        assert all(engine["golden_db"] > 50 for engine in one["engines"])
        assert all(engine["audit"]["convolutions"] == 6 for engine in one["engines"])
        reformats = [] if library == "tensorrt-rtx" else ["Reformatting CopyNode for Input Tensor 0"]
        assert all(engine["audit"]["reformats"] == reformats for engine in one["engines"])
    assert len([*(tmp_path / "cache" / "wdsr-edge" / "engines").glob("*/engine")]) == 6


def test_what_was_built_and_proven_is_taken_the_next_time(tmp_path: Path) -> None:
    first_run(tmp_path)
    again = first_run(tmp_path)
    assert "building" not in again.stderr
    assert again.stdout.count("(cached)") == 3
    assert "convs as asked" in again.stdout
    words = program(tmp_path, f"print(wdsr_edge.load({MODEL!r}, tile=None)(frame_of_size(48, 64)).shape)")
    assert words == "(96, 128, 3)"


@pytest.mark.parametrize("slow", ["fp16", "int8"])
def test_the_faster_precision_is_what_auto_means(tmp_path: Path, slow: str) -> None:
    done = first_run(tmp_path, "--json", faults=f"slow-{slow} slow-fp32")
    assert done.returncode == 0, done.stderr
    assert ("INT8 in tensorrt is slower than FP16 for 64x48" in done.stderr) == (slow == "int8")
    assert bool(json.loads(done.stdout)["slower_int8"]) == (slow == "int8")
    found = program(tmp_path, f"sr = wdsr_edge.load({MODEL!r})\nprint(sr.backend, sr.precision)")
    assert found == f"tensorrt {'int8' if slow == 'fp16' else 'fp16'}"


def test_a_narrowed_run_is_not_remembered(tmp_path: Path) -> None:
    done = first_run(tmp_path, "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert program(tmp_path, f"print(wdsr_edge.load({MODEL!r}).precision)") == "fp16", "the documented order"


def test_an_engine_that_spoils_the_golden_frame_is_refused(tmp_path: Path) -> None:
    done = first_run(tmp_path, faults="noise-fp16")
    assert done.returncode == 1
    line = "tensorrt fp16 was not timed: the fp16 engine is refused: on the golden frame it comes to 36.1 dB"
    assert line in done.stderr
    assert f"on this GPU: wdsr-edge compile {MODEL} tests all" in done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("64x48")]
    assert [row[2] for row in rows] == ["int8", "fp32"]
    text = f"""
try:
    wdsr_edge.load({MODEL!r}, precision="fp16", tile=None)(frame_of_size(48, 64))
except wdsr_edge.BackendError as error:
    print(error)
"""
    assert "refused" in program(tmp_path, text, faults="noise-fp16"), "also when it comes out of the cache"


def builds(folder: Path) -> list[dict[str, Any]]:
    """What each build was given."""
    return [json.loads(line) for line in (folder / "built.jsonl").read_text().splitlines()]


def test_what_was_asked_for_reaches_the_builder(tmp_path: Path) -> None:
    options = ("--workspace", "40", "--optimization", "5", "--aux-streams", "2", "--tiling", "full", "--l2-limit", "3")
    done = first_run(
        tmp_path, *options, "--hardware", "ampere-plus", "--precision", "fp16", "--precision", "int8", memory=256 << 20
    )
    assert done.returncode == 0, done.stderr
    first, second = builds(tmp_path)
    assert first | {"timing_cache": 0} == second | {"timing_cache": 0}
    assert (first["workspace"], first["builder_optimization_level"], first["max_aux_streams"]) == (40 << 20, 5, 2)
    assert (first["tiling_optimization_level"], first["l2_limit_for_tiling"]) == ("FULL", 3 << 20)
    assert first["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert (first["timing_cache"], second["timing_cache"] > 0) == (0, True), "what was measured before is used again"
    first_run(tmp_path, "--precision", "fp32", memory=256 << 20)
    assert builds(tmp_path)[-1]["workspace"] == 128 << 20, "half of what is free"


def test_the_second_gpu_is_compiled_for_and_remembered_by_nobody(tmp_path: Path) -> None:
    nvidia_smi = tmp_path / "modules" / "nvidia-smi"
    env = environment(tmp_path, gpus=2)
    nvidia_smi.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\necho 900, 1000, 800, 30, 70, 50, 0x0\n')
    nvidia_smi.chmod(0o755)
    env["PATH"] = f"{nvidia_smi.parent}:{env['PATH']}"
    command = ("compile", MODEL, *QUICK, "--device", "1", "--json")
    done = wdsr_edge(*command, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {found["gpu"] for found in builds(tmp_path)} == {1}
    names = "--query-gpu=name"  # of all GPUs: for what was measured on them
    assert {*(tmp_path / "asked").read_text().split()} - {names} == {"--id=0000:02:00.0"}
    assert json.loads(done.stdout)["clocks"]["gpu_mhz"] == 900
    assert not (tmp_path / "cache" / "wdsr-edge" / "speed").exists()


def test_a_frame_that_is_too_large_for_one_window_is_timed_in_tiles(tmp_path: Path) -> None:
    done = wdsr_edge(
        *("compile", MODEL, "--size", "300x300", "--precision", "fp16", "--seconds", "0"),
        env=environment(tmp_path, memory=1 << 26),
    )
    assert done.returncode == 0, done.stderr
    assert "300x300 is too large for one window: it was timed in tiles, with an engine for those" in done.stderr
    two = first_run(tmp_path, "--profile", "16x16,64x48,100x100")
    refused(two, "two engines for 64x48 cannot be told apart: compile one at a time")


def test_silent_fp32_is_refused(tmp_path: Path) -> None:
    done = first_run(tmp_path, "--precision", "int8", faults="widen-int8")
    assert done.returncode == 1
    words = (
        "its 6 convolutions do not all run in what they ask for (body.0.branch.0 asked for int8 and runs in fp32 and 2 "
    )
    assert words in done.stderr


def test_a_build_that_dies_is_tried_once_more(tmp_path: Path) -> None:
    done = first_run(tmp_path, "--precision", "fp16", faults="die-once")
    assert done.returncode == 0, done.stderr
    assert "was killed" in done.stderr
    assert "again at optimisation level 1" in done.stderr
    assert "was built with less" in done.stderr
    loaded = f"import logging\nlogging.basicConfig()\nwdsr_edge.load({MODEL!r}, tile=None)(frame_of_size(48, 64))"
    assert "this one is at optimisation level 1" in run_program(tmp_path, loaded)[1]
    again = first_run(tmp_path, "--precision", "fp16")
    assert "built the tensorrt engine for 64x48 in fp16 in 0.0 s: it was built with less, as at first" in again.stderr


def test_a_build_that_dies_twice_says_what_to_try(tmp_path: Path) -> None:
    done = first_run(tmp_path, "--precision", "fp16", faults="die")
    assert done.returncode == 1
    assert "twice: try a smaller --workspace, a lower --optimization or a smaller --size" in done.stderr


@pytest.mark.parametrize(
    ("options", "release", "words"),
    [
        (("--dla", "0"), "10.3.0", ["a DLA runs FP16 alone"]),
        (("--tiling", "fast"), "10.3.0", ["tensorrt 10.3 has no tiling optimisation"]),
        (("--hardware", "ampere-plus"), "rtx-1.7.1", ["no hardware compatibility"]),
        (("--device", "3"), "11.4.0", ["there is no GPU 3: this machine has 1"]),
        (("--backend", "openvino"), "11.4.0", ["--backend must be one of tensorrt, tensorrt-rtx"]),
    ],
)
def test_options_that_it_has_not_are_one_line(
    tmp_path: Path, options: tuple[str, ...], release: str, words: list[str]
) -> None:
    refused(first_run(tmp_path, *options, release=release), *words)


def test_a_profile_serves_every_frame_in_it(tmp_path: Path) -> None:
    done = wdsr_edge(
        *("compile", MODEL, "--profile", "16x16,64x48,200x200", "--precision", "fp16", "--seconds", "0"),
        env=environment(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    text = f"""
with wdsr_edge.load({MODEL!r}, backend="tensorrt", precision="fp16", tile=None) as sr:
    print(*(sr(frame_of_size(*size)).shape for size in ((48, 64), (200, 17), (16, 16))))
"""
    assert program(tmp_path, text) == "(96, 128, 3) (400, 34, 3) (32, 32, 3)"
    assert len([*(tmp_path / "cache" / "wdsr-edge" / "engines").glob("*/engine")]) == 1


def test_frames_are_those_of_the_cpu(tmp_path: Path) -> None:
    """Whole, in tiles, grey, of 16 bits, and submitted."""
    text = f"""
photo = frame_of_size(90, 130)
with wdsr_edge.load({MODEL!r}, backend="onnxruntime") as cpu:
    frames = (photo, photo[..., 0].copy(), photo.astype(np.uint16) * 257, photo[:, :, [0, 1, 2, 0]].copy())
    wanted = [cpu(frame) for frame in frames]
for tile in ("auto", 40):
    with wdsr_edge.load({MODEL!r}, backend="tensorrt", precision="fp32", tile=tile) as sr:
        tickets = [sr.submit(frame) for frame in frames]
        for ticket, want in zip(tickets, wanted):
            one = 257 if want.dtype == np.uint16 else 1
            print(np.abs(ticket.result().astype(int) - want).max() <= one, end=" ")
"""
    assert program(tmp_path, text) == " ".join(8 * ["True"])
    assert len([*(tmp_path / "cache" / "wdsr-edge" / "engines").glob("*/engine")]) == 4, "one for each window and graph"


def test_upscale_on_the_gpu(tmp_path: Path) -> None:
    Image.fromarray(frame_of_size(40, 50)).save(tmp_path / "small.png")
    done = wdsr_edge(
        *("upscale", "small.png", "-m", MODEL, "--backend", "tensorrt"), env=environment(tmp_path), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert read_rgb(tmp_path / "small_x2.png").shape == (80, 100, 3)
    assert "building a tensorrt engine for 50x40 in fp16, which may take minutes, once" in done.stderr


def test_an_engine_in_a_file_is_run(tmp_path: Path) -> None:
    first_run(tmp_path, "--precision", "fp16")
    (built,) = (tmp_path / "cache" / "wdsr-edge" / "engines").glob("*/engine")
    mine = tmp_path / "camera.engine"
    mine.write_bytes(built.read_bytes())
    text = f"""
def tried(frame, **options):
    try:
        with wdsr_edge.load({MODEL!r}, engine={str(mine)!r}, **options) as sr:
            print(sr.backend, sr.precision, sr(frame).shape)
    except wdsr_edge.WdsrError as error:
        print(error)
tried(frame_of_size(48, 64), precision="fp16")
tried(frame_of_size(48, 65), precision="fp16")
tried(frame_of_size(48, 64))
tried(frame_of_size(48, 64), backend="openvino", precision="fp16")
"""
    lines = program(tmp_path, text).splitlines()
    assert lines[0] == "tensorrt fp16 (96, 128, 3)"
    assert lines[1] == "the engine does not take (1, 48, 65, 3): compile one that does"
    assert lines[2] == f"cannot tell the precision of {mine} (no .json next to it): name the precision"
    assert lines[3] == (
        f"engine {str(mine)!r} is for tensorrt or tensorrt-rtx on a GPU, not for openvino: "
        "leave it out, or see what wdsr-edge doctor says"
    )
    mine.with_suffix(".json").write_text(json.dumps({"precision": "fp16", "library": "tensorrt 10.0"}))
    assert "is of another library or version" in program(tmp_path, text).splitlines()[2]


def engine_in_a_file(folder: Path, **machine: Any) -> Path:
    """One of 64x48, with what compile writes next to those for other devices."""
    first_run(folder, "--precision", "fp16", **machine)
    (entry,) = (folder / "cache" / "wdsr-edge" / "engines").glob("*/entry.json")
    mine = folder / "camera.engine"
    mine.write_bytes((entry.parent / "engine").read_bytes())
    built = json.loads(entry.read_text())
    library = " ".join(built["builder"][key] for key in ("library", "version"))
    about = {"precision": "fp16", "config": built["request"]["config"], "library": library}
    mine.with_suffix(".json").write_text(json.dumps(about))
    return mine


@pytest.mark.parametrize("release", ["11.4.0", pytest.param("rtx-1.7.1", marks=pytest.mark.slow)])
def test_commands_take_an_engine_in_a_file(tmp_path: Path, release: str) -> None:
    mine, env = engine_in_a_file(tmp_path, release=release), environment(tmp_path, release=release)
    library = "tensorrt-rtx" if release.startswith("rtx") else "tensorrt"
    done = wdsr_edge("benchmark", MODEL, "--engine", mine, "--seconds", "0", "--json", env=env)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["choices"]
    assert (one["backend"], one["precision"]) == (library, "fp16")
    assert [(size["width"], size["height"]) for size in one["sizes"]] == [(64, 48)], "what it was compiled for"
    done = wdsr_edge("verify", MODEL, "--engine", mine, "--json", env=env)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["precisions"]
    assert one["engine"] == f"{library} (camera.engine, 64x48)"
    assert one["passed"]
    assert 50 < one["total"]["psnr_db"] < 90
    Image.fromarray(frame_of_size(48, 64)).save(tmp_path / "in.png")
    done = wdsr_edge("upscale", tmp_path / "in.png", "-m", MODEL, "--engine", mine, "-o", tmp_path / "big.png", env=env)
    assert done.returncode == 0, done.stderr
    assert read_rgb(tmp_path / "big.png").shape == (96, 128, 3)


def test_an_engine_that_is_wrong_fails_its_verification(tmp_path: Path) -> None:
    mine, env = engine_in_a_file(tmp_path), environment(tmp_path, faults="noise-fp16")
    done = wdsr_edge("verify", MODEL, "--engine", mine, "--json", env=env)
    assert done.returncode == 1, done.stderr
    assert not json.loads(done.stdout)["passed"]


@pytest.mark.slow
def test_an_engine_in_a_file_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    mine, env = engine_in_a_file(tmp_path), environment(tmp_path)
    for command in ("benchmark", "verify"):
        refused(wdsr_edge(command, MODEL, "--engine", mine, "--size", "64x49", env=env), "the engine does not take")
    refused(wdsr_edge("verify", MODEL, "--engine", mine, "--onnx", "x.onnx", env=env), "leave out --images and --onnx")
    refused(wdsr_edge("verify", MODEL, "--device", "1", env=env), "--size and --device are for --engine")
    mine.with_suffix(".json").write_text('{"precision": "fp16"}')
    refused(wdsr_edge("verify", MODEL, "--engine", mine, env=env), "give --size")
    assert wdsr_edge("verify", MODEL, "--engine", mine, "--size", "64x48", env=env).returncode == 0
    mine.with_suffix(".json").write_text('{"precision": "fp16", "onnx_sha256": "another"}')
    refused(wdsr_edge("benchmark", MODEL, "--engine", mine, "--size", "64x48", env=env), "is of another model")


def test_a_gpu_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    Image.fromarray(frame_of_size(8, 8)).save(tmp_path / "in.png")
    for command in (
        ("benchmark", MODEL, *QUICK),
        ("upscale", tmp_path / "in.png"),
        ("doctor", "--self-test", "--model", MODEL, *QUICK),
    ):
        done = wdsr_edge(*command, "--device", "3", env=environment(tmp_path), cwd=tmp_path)
        refused(done, "there is no GPU 3: this machine has 1")


def test_a_forked_child_is_told_and_the_parent_goes_on(tmp_path: Path) -> None:
    text = f"""
sr = wdsr_edge.load({MODEL!r}, backend="tensorrt")
frame = frame_of_size(20, 20)
before = sr(frame)
child = os.fork()
if child == 0:
    try:
        sr(frame)
    except wdsr_edge.BackendError as error:
        print(error, flush=True)
    sr.close()
    os._exit(0)
os.waitpid(child, 0)
print((sr(frame) == before).all())
sr.close()
"""
    assert program(tmp_path, text).splitlines() == [
        "a forked process cannot use the GPU: start it with multiprocessing's spawn",
        "True",
    ]


def test_what_does_not_open_makes_room_for_the_next(tmp_path: Path) -> None:
    """TensorRT that is too old is said and passed over, unless it was asked for."""
    text = f"""
import logging
logging.basicConfig(format="%(message)s", stream=__import__("sys").stdout)
print(wdsr_edge.load({MODEL!r}).backend)
try:
    wdsr_edge.load({MODEL!r}, backend="tensorrt")
except wdsr_edge.WdsrError as error:
    print(error)
"""
    env = environment(tmp_path, release="11.4.0")
    too_old = Path(env["PYTHONPATH"].split(":")[0]) / "simulated" / "__init__.py"
    too_old.write_text("__version__ = '8.6.1'\n")
    code = f"import wdsr_edge\n{text}"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tensorrt in fp16 is not used: tensorrt 8.6.1 is too old"), done
    assert lines[-2:] == ["onnxruntime", lines[0].partition(": ")[2]]


def test_doctor_tries_a_model_and_writes_a_report(tmp_path: Path) -> None:
    env = environment(tmp_path)
    done = wdsr_edge(*("doctor", "--self-test", "--model", MODEL, *QUICK, "-o", "report.json"), env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    unknown = wdsr_edge(*("doctor", "--self-test", "--model", MODEL, "--model", "nope"), env=env, cwd=tmp_path)
    refused(unknown, "no model 'nope'")
    assert (report["gpu_tried"], report["untried"]) == (True, [])
    assert report["machine"]["cuda"].startswith("Simulated GPU, compute capability 8.7, 1.0 GiB, memory of its own; ")
    assert report["machine"]["cuda"].endswith("CUDA 13.0, driver for up to 13.2")
    assert report["machine"]["engines"]["tensorrt"] == "11.4.0", "though no package says so"
    assert not [line for line in report["machine"]["advice"] if "without TensorRT" in line]
    tried = {(one["backend"], one["precision"]) for one in report["models"][MODEL]["choices"]}
    assert {("tensorrt", kind) for kind in ("fp32", "fp16", "int8")} <= tried
    assert {("onnxruntime", "fp32"), ("openvino", "int8")} <= tried
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "alone" in done.stdout


def test_a_model_that_crashes_leaves_the_report_of_the_others(tmp_path: Path) -> None:
    models = ("--model", "wdsr-b-3x32-x3", "--model", MODEL)
    env = environment(tmp_path, faults="abort-x3")
    done = wdsr_edge("doctor", "--self-test", *models, *QUICK, env=env, cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED: wdsr-b-3x32-x3 in a process that ended with -6" in done.stderr
    assert f"FAILED: {MODEL}" not in done.stderr
    report = json.loads((tmp_path / "wdsr-edge-self-test.json").read_text())
    assert (report["passed"], report["untried"]) == (False, [])
    assert len(report["models"][MODEL]["choices"]) == 7
    assert MODEL in done.stdout


@pytest.mark.slow
def test_doctor_fails_if_anything_does(tmp_path: Path) -> None:
    env = environment(tmp_path, faults="noise-int8 widen-fp16")
    done = wdsr_edge("doctor", "--self-test", "--model", MODEL, *QUICK, env=env, cwd=tmp_path)
    assert done.returncode == 1
    assert f"FAILED: {MODEL} in tensorrt int8: the int8 engine is refused" in done.stderr
    report = json.loads((tmp_path / "wdsr-edge-self-test.json").read_text())
    assert not report["passed"]
    refused_ones = {one["precision"]: one["engines"][0] for one in report["models"][MODEL]["choices"] if one["fault"]}
    assert refused_ones.keys() == {"int8", "fp16"}
    assert refused_ones["int8"]["golden_db"] is None
    assert len(refused_ones["fp16"]["audit"]["faults"]) == 6
    assert "CaskConvolution" in refused_ones["fp16"]["layers"], "what the inspector said"


@pytest.mark.slow
def test_a_photo_from_end_to_end(tmp_path: Path) -> None:
    done = wdsr_edge(
        *(
            "upscale",
            PHOTOS / "coffee.png",
            "-m",
            MODEL,
            "--backend",
            "tensorrt",
            "--precision",
            "int8",
            "-o",
            "big.png",
        ),
        env=environment(tmp_path),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    small, big = read_rgb(PHOTOS / "coffee.png"), read_rgb(tmp_path / "big.png")
    assert big.shape == (2 * small.shape[0], 2 * small.shape[1], 3)


@pytest.mark.slow
def test_what_tests_a_real_gpu_passes_on_a_simulated_one(tmp_path: Path) -> None:
    """But for what a simulated one is too slow or too small for."""
    left_out = "not every_model and not keeps_the_gpu_busy"
    env = environment(tmp_path)
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-k", left_out, "-p", "no:cacheprovider"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "7 passed" in done.stdout
