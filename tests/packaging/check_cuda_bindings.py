"""Check the CUDA functions in use against the oldest and the newest cuda-bindings for this Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASES = ("12.9.10", "13.5.0") if sys.version_info >= (3, 11) else ("12.9.10",)


def main() -> None:
    for release in RELEASES:
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder]
            subprocess.run([*pip, f"cuda-bindings=={release}"], check=True)
            test = ["tests/wdsr_edge/backends/tensorrt/test_cuda.py", "--quiet", "-p", "no:cacheprovider"]
            environment = {**os.environ, "PYTHONPATH": folder, "CUDA_BINDINGS": release}
            subprocess.run([sys.executable, "-m", "pytest", *test], cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    main()
