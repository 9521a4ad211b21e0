"""A good bundle, and a copy of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.bundles import CONFIG
from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import build
from wdsr_export import deploy


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundles") / "good"
    done = deploy(build(CONFIG), path, {"golden": golden_frame()}, sizes=[(8, 8)], seconds=0)
    assert done.bundle is not None
    return path


@pytest.fixture
def bundle(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "bundle"))
