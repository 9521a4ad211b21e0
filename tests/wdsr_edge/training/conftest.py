"""A few photos to learn from, one to be judged on, and the smallest network there is."""

from __future__ import annotations

import pytest

from wdsr_edge.data.pairs import Pair, bicubic, load_pairs
from wdsr_edge.images.samples import PHOTOS, golden_frame


@pytest.fixture(scope="session")
def pairs() -> list[Pair]:
    return load_pairs([PHOTOS], 2)


@pytest.fixture(scope="session")
def validation() -> list[Pair]:
    hr = golden_frame()
    return [Pair("golden", bicubic(hr, 1 / 2), hr)]
