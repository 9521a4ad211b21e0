"""Build the wheel, install it as a device would (one engine, no torch), and use the installed command on a photo.

Runs on the Python it is started with, and on Python 3.10 as well where there is one: JetPack 6 has that. There also
with the oldest releases that pyproject.toml admits.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = "wdsr-b-3x32-x2"
PHOTO = ROOT / "wdsr_edge" / "images" / "photos" / "chelsea.png"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", str(work), str(ROOT))
        (wheel,) = work.glob("*.whl")
        check_contents(wheel)
        for python in pythons():
            check_install(python, wheel, work / "pinned", ["--constraint", str(ROOT / "constraints.txt")])
            if "3.10" in python:
                check_install(python, wheel, work / "oldest", [f"{name}=={version}" for name, version in oldest()])
            shutil.rmtree(work / "pinned")


def oldest() -> list[tuple[str, str]]:
    """The lowest releases that pyproject.toml promises to work with, for a device."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = ("filelock", "numpy", "pillow", "platformdirs", "rich", "typer", "onnxruntime")
    return [(name, re.findall(rf'"{name}>=([\d.]+)"', project)[0]) for name in names]


def pythons() -> list[str]:
    """The running Python, and 3.10 if it is another one and starts."""
    found = [sys.executable]
    if sys.version_info[:2] != (3, 10):
        candidates = [shutil.which("python3.10"), *sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))]
        for candidate in candidates:
            if candidate is None:
                continue
            tried = subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True, check=False)
            if tried.returncode == 0:
                found.append(str(candidate))
                break
        else:
            print("Python 3.10 is not installed: checked on the running Python only")
    return found


def check_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"wdsr_edge", "wdsr_export", "wdsr_calibration"}, f"top-level packages of the wheel: {tops}"
    for name in (
        "wdsr_edge/py.typed",
        f"wdsr_edge/zoo/{MODEL}/manifest.json",
        "wdsr_edge/images/photos/coffee.png",
        "wdsr_calibration/manifests/div2k.toml",
        "wdsr_edge/targets/rtx-4090.toml",
    ):
        assert name in names, f"the wheel lacks {name}"
    size = wheel.stat().st_size
    assert size < 16 << 20, f"the wheel is {size} bytes"
    print(f"{wheel.name}: {size / 1e6:.1f} MB, {len(names)} files")


def check_install(python: str, wheel: Path, venv: Path, versions: list[str]) -> None:
    run(python, "-m", "venv", str(venv))
    bin_ = venv / "bin"
    pip = [str(bin_ / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, f"{wheel}[onnxruntime]", *versions)
    if "--constraint" in versions:  # what make test-gpu GPU=jetson installs can be had
        run(*pip, "--dry-run", f"{wheel}[jetson]", "pytest", "pytest-timeout", "hypothesis", *versions)
    for absent in ("torch", "onnx", "safetensors"):
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({absent!r}) is not None)"
        run(str(bin_ / "python"), "-c", code)
    command = str(bin_ / "wdsr-edge")
    big = venv / "chelsea_x2.png"
    run(command, "upscale", str(PHOTO), "--output", str(big), cwd=venv)
    size = run(str(bin_ / "python"), "-c", f"from PIL import Image; print(*Image.open({str(big)!r}).size)")
    assert size.split() == ["902", "600"], f"upscaled photo is {size}"
    assert json.loads(run(command, "verify", MODEL, "--json", cwd=venv))["passed"]
    providers = json.loads(run(command, "doctor", "--json", cwd=venv))["onnxruntime_providers"]
    assert providers["CPUExecutionProvider"] == "works", providers
    assert json.loads(run(command, "models", MODEL, "--json", cwd=venv))[0]["shipped"]
    run(command, "compile", MODEL, "--target", "jetson-orin-nano", cwd=venv)
    run(command, "benchmark", MODEL, "--size", "64x48", "--seconds", "0.1", cwd=venv)
    run(command, "evaluate", MODEL, str(PHOTO), cwd=venv)
    refused = subprocess.run([command, "deploy", MODEL], capture_output=True, text=True, cwd=venv, check=False)
    assert refused.returncode == 2, refused
    assert "wdsr-edge[" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr, refused.stderr
    print(f"{python}, {venv.name} releases: installed without torch, upscaled {PHOTO.name}")


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
