"""Tables and names as they are shown."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.console import Console

from wdsr_edge.cli import output

NAMES = ["short.png", "IMG_20240102_" + "very_long_" * 20 + "1.png", "写真" * 60 + ".png", "n\nl.png"]
HEADER = ("image", "PSNR Y", "PSNR RGB", "SSIM Y")
FIGURES = ("30.12", "28.90", "0.9012")


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int | None) -> list[str]:
    if width is not None:
        monkeypatch.setattr(output, "stdout", Console(width=width, highlight=False))
    output.print_table("Title", HEADER, [(name, *FIGURES) for name in NAMES], files=0)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [50, 60, 80, 120, 200])
def test_a_long_name_takes_one_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    title, header, *rows = shown(monkeypatch, capsys, width)
    assert (title, header.split()) == ("Title", ["image", "PSNR", "Y", "PSNR", "RGB", "SSIM", "Y"])
    assert len(rows) == len(NAMES)
    for row, name in zip(rows, NAMES, strict=True):
        assert cell_len(row) <= width
        assert row.split()[1:] == list(FIGURES)
        assert row.split()[0].endswith(name[-5:])
    assert "…" in rows[1]
    assert rows[3].startswith("n\\nl.png")


def test_a_file_gets_whole_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = shown(monkeypatch, capsys, None)[2:]
    assert [row.split()[0] for row in rows] == [*NAMES[:3], "n\\nl.png"]


def test_another_column_may_hold_the_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "stdout", Console(width=50, highlight=False))
    output.print_table("T", ("target", "file"), [("rtx-4090", NAMES[1])], files=1)
    (row,) = capsys.readouterr().out.splitlines()[2:]
    assert cell_len(row) <= 50
    assert row.rstrip().endswith("1.png")
