"""Shapes and options of an engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdsr_edge import InputError
from wdsr_edge.backends.tensorrt.config import EngineConfig, Profile, Shape

SIDES = st.integers(1, 16384)
CAMERA = Profile.static(270, 480)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    batch = sorted(draw(st.lists(st.integers(1, 64), min_size=3, max_size=3)))
    height, width = (sorted(draw(st.lists(SIDES, min_size=3, max_size=3))) for _ in range(2))
    return Profile(*map(Shape, batch, height, width))


@given(profiles())
def test_a_profile_takes_what_lies_between_its_ends(profile: Profile) -> None:
    for shape in (profile.least, profile.best, profile.most):
        assert profile.admits(shape)
        assert profile.rotated().admits(Shape(shape.batch, shape.width, shape.height))
    assert not profile.admits(profile.most._replace(width=profile.most.width + 1))
    assert not profile.admits(profile.least._replace(height=profile.least.height - 1))
    assert profile.rotated().rotated() == profile


@given(st.lists(profiles(), min_size=1, max_size=3), st.booleans())
def test_a_config_comes_back_from_json(found: list[Profile], rtx: bool) -> None:
    config = EngineConfig(tuple(found), workspace_mib=7, tiling="fast", l2_limit_mib=3, sm=(89, 120) if rtx else ())
    assert EngineConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_a_shape_goes_to_the_first_profile_that_takes_it() -> None:
    config = EngineConfig((CAMERA, CAMERA.rotated(), Profile(Shape(1, 8, 8), Shape(1, 9, 9), Shape(1, 500, 500))))
    shapes = [Shape(1, 270, 480), Shape(1, 480, 270), Shape(1, 100, 100), Shape(1, 7, 100), Shape(2, 270, 480)]
    assert [config.profile_of(shape) for shape in shapes] == [0, 1, 2, None, None]


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (CAMERA, "480x270"),
        (Profile.static(270, 480, 2), "2x480x270"),
        (Profile(Shape(1, 64, 32), Shape(1, 64, 48), Shape(4, 64, 96)), "32x64-48x64-4x96x64"),
    ],
)
def test_a_profile_names_its_sizes_as_width_by_height(profile: Profile, text: str) -> None:
    assert str(profile) == text
    assert profile.is_static == ("-" not in text)


@pytest.mark.parametrize(
    "sides", [(2, 1, 3), (1, 3, 2), (0, 1, 2), (1, 1, 16385)], ids=["falls", "falls late", "zero", "too large"]
)
def test_a_profile_must_rise(sides: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="width of a profile must rise"):
        Profile(*(Shape(1, 8, side) for side in sides))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"profiles": ()}, "at least one shape"),
        ({"optimization_level": 6}, "optimization_level must be from 0 to 5, got 6"),
        ({"workspace_mib": 0}, "workspace_mib must be from 1"),
        ({"aux_streams": -1}, "aux_streams must be from 0"),
        ({"tiling": "much"}, "tiling must be one of none, fast"),
        ({"hardware": "any"}, "hardware must be one of this"),
        ({"l2_limit_mib": 4}, "l2_limit_mib is for tiling"),
        ({"dla": 8}, "dla must be from 0 to 7"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EngineConfig(**{"profiles": (CAMERA,), **options})
