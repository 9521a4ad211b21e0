"""Tables fit the width that there is, and no word in them is taken apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.command_line import wdsr_edge
from wdsr_edge.cli.output import _lines
from wdsr_edge.images.samples import golden_frame

WORD = st.text("abcdefgh0123-_.ä", min_size=1, max_size=18)
CELL = st.lists(WORD, max_size=5).map(" ".join)
ENV = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    columns = draw(st.integers(1, 8))
    row = st.lists(CELL, min_size=columns, max_size=columns)
    return draw(row), draw(st.lists(row, max_size=4))


@given(table=tables(), width=st.integers(40, 120), figures=st.booleans())
def test_a_table_fits_and_keeps_every_word(table: tuple[list[str], list[list[str]]], width: int, figures: bool) -> None:
    header, rows = table
    lines = [line.rstrip() for line, _ in _lines(header, rows, width, figures)]
    shown = " ".join(lines).replace(";", " ").split()
    for row in rows:
        for word in " ".join(row).split():
            assert word in shown
    whole = {row[0] for row in rows} | {
        f"  {name} {cell}" for row in rows for name, cell in zip(header, row, strict=True)
    }
    for line in lines:
        assert len(line) <= width or line.rstrip(";") in {text.rstrip() for text in whole}, lines


def test_a_long_name_is_one_line_and_its_figures_the_next() -> None:
    name = "a" * 90 + ".png"
    lines = [line for line, _ in _lines(("image", "PSNR", "levels"), [[name, "99.44 dB", "1"]], 80, True)]
    assert lines[1] == name
    assert lines[2].split() == ["99.44", "dB", "1"]
    assert len(lines) == 3


def test_what_does_not_fit_at_all_is_a_paragraph() -> None:
    header = [f"column{i}" for i in range(9)]
    lines = [line for line, _ in _lines(header, [[f"value-number-{i}" for i in range(9)]], 80, True)]
    assert lines[0] == "value-number-0"
    assert lines[1].startswith("  column1 value-number-1; column2 value-number-2; ")
    assert lines[-1].endswith("column8 value-number-8")


@pytest.mark.parametrize("columns", [None, "80", "120", "0", "wide"])
def test_piped_tables_fit_80_columns_or_what_is_said(columns: str | None) -> None:
    env = ENV if columns is None else {**ENV, "COLUMNS": columns}
    done = wdsr_edge("doctor", env=env)
    longest = max(map(len, done.stdout.splitlines()))
    assert longest <= (120 if columns == "120" else 80), done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("models",),
        ("benchmark", "wdsr-b-1x32-x2", "--size", "16x16", "--seconds", "0"),
        pytest.param(("verify", "wdsr-b-1x32-x2"), marks=pytest.mark.slow),
        ("compile", "wdsr-b-1x32-x2", "--target", "rtx-4090", "--size", "16x16", "--precision", "fp16"),
    ],
)
def test_commands_fit_80_columns(command: tuple[str, ...], tmp_path: Path) -> None:
    done = wdsr_edge(*command, env=ENV, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if ".engine" not in line) <= 80, done.stdout


@pytest.mark.parametrize(
    "encoding", ["cp1252", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ascii", "cp437"))]
)
def test_a_console_without_unicode_is_no_crash(encoding: str, tmp_path: Path) -> None:
    """As on Windows, for names and for the frames of help pages."""
    env = {**ENV, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    folder = tmp_path / "写真 é"
    folder.mkdir()
    Image.fromarray(golden_frame()).save(folder / "日本.png")

    def run(*command: str | Path) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "wdsr_edge", *command], capture_output=True, env=env, check=False)
        return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)

    for command in (("--help",), ("train", "--help")):
        code, shown, said = run(*command)
        assert (code, said) == (0, "")
        assert "Usage" in shown
    code, _, said = run("upscale", tmp_path / "日本語.png")
    assert code == 2
    assert said.startswith("wdsr-edge: ")
    assert "\\u65e5\\u672c\\u8a9e.png" in said
    code, shown, said = run("evaluate", "wdsr-b-1x32-x2", folder)
    assert code == 0, said
    assert "\\u65e5\\u672c" in shown
