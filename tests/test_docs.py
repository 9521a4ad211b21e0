"""The documentation says what is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import wdsr_edge
from wdsr_edge._version import __version__

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_program_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    check = "\nassert big.shape == (540, 960, 3) and big.dtype == np.uint8"
    subprocess.run([sys.executable, "-W", "error", "-c", program + check], check=True)


def test_readme_names_every_command() -> None:
    named = set(re.findall(r"^\| `wdsr-edge (\w+)", README, re.MULTILINE))
    files = {path.stem for path in (ROOT / "wdsr_edge" / "cli").glob("*.py")}
    assert named == {stem.rstrip("_") for stem in files - {"__init__", "app", "output", "pipes", "sizes"}}


def test_readme_make_targets_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([\w-]+)", README)) - {"on"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / link).exists(), link


def test_readme_extras_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in ",".join(re.findall(r"(?:wdsr-edge|'\.)\[([\w,-]+)\]", README)).split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_changelog_has_this_version() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_error_names_an_extra_that_exists() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    sources = [path for folder in ("wdsr_edge", "export", "calibration") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    found = {*re.findall(r"wdsr-edge\[([\w-]+)\]", text), *re.findall(r'require\("[\w.]+", "([\w-]+)"\)', text)}
    assert found >= {"onnxruntime", "export", "train", "image16"}
    for extra in found:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_public_names_have_docstrings() -> None:
    for name in wdsr_edge.__all__:
        assert getattr(wdsr_edge, name).__doc__, name
