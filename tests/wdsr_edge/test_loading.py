"""What load takes for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import wdsr_edge
from wdsr_edge import BundleError, InputError, WdsrError
from wdsr_edge.loading import ZOO_VARIABLE, find_bundle


@pytest.mark.parametrize(
    "name",
    ["", "nothing", "wdsr-b-99x99-x4", "a\0b", "../nothing", "x" * 300, "x/" + "y" * 300, "x/" * 3000, "é", "\ud800"],
    ids=lambda name: repr(name[:12]),
)
def test_a_name_of_nothing(name: str) -> None:
    with pytest.raises((InputError, BundleError)):
        wdsr_edge.load(name)


def test_a_zoo_folder(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ZOO_VARIABLE, str(bundle.parent))
    assert find_bundle("bundle") == bundle
    wdsr_edge.load("bundle").close()
    monkeypatch.setenv(ZOO_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(InputError, match="no model 'bundle'"):
        wdsr_edge.load("bundle")


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int8"},
        {"precision": "half"},
        {"precision": None},
        {"backend": "torch"},
        {"backend": "tensorrt"},
        {"backend": None},
        {"device": 1},
        {"engine": "x.plan"},
        {"tile": 0},
        {"tile": -1},
        {"tile": "big"},
        {"tile": 2.5},
        {"tile": True},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], good: Path) -> None:
    with pytest.raises(WdsrError):
        wdsr_edge.load(good, **options)
