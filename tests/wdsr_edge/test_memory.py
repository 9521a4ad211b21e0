"""Memory is bounded by the tile, not by the photo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wdsr_edge.backends import ON_CPU
from wdsr_edge.images.samples import frame_of_size

PROGRAM = """
import resource, sys
from wdsr_edge.cli import main
sys.argv = ["wdsr-edge", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert end.code == 0 or end.code is None, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_photo_of_12_megapixels_stays_under_one_and_a_half_gigabytes(tmp_path: Path, mode: str) -> None:
    suffix = ".jpg" if mode == "RGB" else ".png"
    source, target = tmp_path / f"photo{suffix}", tmp_path / f"big{suffix}"
    Image.fromarray(frame_of_size(3000, 4000)).convert(mode).save(source)
    command = [sys.executable, "-c", PROGRAM, "upscale", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout) * 1024
    assert peak < 1.5e9, f"{mode}: {peak / 1e9:.2f} GB"
    with Image.open(target) as big:
        assert (big.size, big.mode) == ((8000, 6000), mode)
        corner = np.asarray(big.crop((7800, 5800, 8000, 6000)).convert("RGB"))
        assert corner.std() > 3
    print(f"{mode}: {peak / 1e9:.2f} GB")


UPSCALE = """
import sys
from wdsr_edge.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
# Not ru_maxrss, which begins with the peak of the process that started this one.
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak")
@pytest.mark.parametrize("model", ["wdsr-b-1x32-x2", "wdsr-b-3x32-x2", "wdsr-b-3x32-x4"])
def test_a_frame_of_1280x720_stays_under_400_mb(tmp_path: Path, model: str) -> None:
    source = tmp_path / "frame.png"
    Image.fromarray(frame_of_size(720, 1280)).save(source)
    options = ["--backend", "onnxruntime", "--precision", "fp32"]
    command = [sys.executable, "-c", UPSCALE, "upscale", str(source), "-o", str(tmp_path / "big.png"), "-m", model]
    peak = int(subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout) * 1024
    assert peak < 400e6, f"{model}: {peak / 1e6:.0f} MB"


MANY_SIZES = """
import sys
import numpy as np
import psutil
import wdsr_edge

process = psutil.Process()
with wdsr_edge.load("wdsr-b-1x32-x2", backend=sys.argv[1], precision=sys.argv[2], threads=1) as sr:
    sr(np.zeros((42, 42, 3), np.uint8))
    before = process.memory_info().rss
    for size in np.random.default_rng(0).permutation(32 * 32)[:1000]:
        sr(np.zeros((10 + size // 32, 10 + size % 32, 3), np.uint8))
    print((process.memory_info().rss - before) >> 20)
"""


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ON_CPU)
def test_frames_of_a_thousand_sizes_stay_within_60_mib(backend: str, precision: str) -> None:
    pytest.importorskip(backend)
    command = [sys.executable, "-c", MANY_SIZES, backend, precision]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown <= 60
    print(f"{backend} {precision}: {grown} MiB")
