"""Memory is bounded by the tile, not by the photo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wdsr_edge.samples import frame_of_size

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
