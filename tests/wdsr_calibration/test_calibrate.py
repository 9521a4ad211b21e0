"""``calibrate``, whole, on a shipped model and few crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wdsr_calibration import (
    Budget,
    Calibration,
    CalibrationConfig,
    CalibrationSet,
    LearningConfig,
    SampleConfig,
    calibrate,
)
from wdsr_calibration.drop import Drop
from wdsr_calibration.network import Network
from wdsr_calibration.placement import Placement
from wdsr_calibration.qdq import LEVELS_OF_FORM, RELU_LEVELS_OF_FORM
from wdsr_calibration.samples import PHOTOGRAPHS, sample_folders
from wdsr_edge import InputError
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import fold, load_model
from wdsr_edge.models.reference import to_tensor

MODEL = load_model("wdsr-b-1x32-x2")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    folder = tmp_path_factory.mktemp("photos")
    for name, frame in sample_frames().items():
        for i in range(4):
            piece = frame[i * 64 : i * 64 + 96, 30:190]
            if min(piece.shape[:2]) >= 64:
                Image.fromarray(piece).save(folder / f"{i}-{Path(name).stem}.png")
    return sample_folders([folder], 2, SampleConfig(crops=16, size=24, drawn=0, held_out=3))


def quick(samples: CalibrationSet, max_drop: float = 1.0, **options: object) -> Calibration:
    wide = Budget(max_drop, 9.0, 9.0, 10.0) if max_drop > 0 else Budget()
    settings = {"learning": LearningConfig(steps=8), "budget": wide, **options}
    return calibrate(MODEL, samples, max_drop=max_drop, config=CalibrationConfig(**settings))  # type: ignore[arg-type]


def test_what_it_says_is_what_a_network_so_placed_loses(samples: CalibrationSet) -> None:
    for form in ("tensorrt", "cpu"):
        found = quick(samples, form=form, identities="auto")
        levels = {"kernel_levels": LEVELS_OF_FORM[found.form], "relu_levels": RELU_LEVELS_OF_FORM[found.form]}
        network = Network(found.model, **levels)
        for name, scale in found.scales.items():
            network.tensors[name].set_scale(scale)
        assert Drop(fold(MODEL), samples.held_out)(network, found.placement) == found.losses
        assert found.met
        assert found.drop_db < 0.3
        assert found.body_share == 1
        assert found.placement.identities == ("add",)
        assert found.share == found.placement.share(network.macs)


def test_equalisation_and_ranges_are_worth_it(samples: CalibrationSet) -> None:
    plain = quick(samples, equalisation=False, ranges="min-max", learning=LearningConfig(steps=0))
    best = quick(samples)
    assert best.excess_by_ranges[best.ranges] == min(best.excess_by_ranges.values())
    assert best.excess_by_ranges.keys() == {"min-max", "percentile", "entropy", "mse"}
    assert best.excess_by_ranges["min-max"] < 0.7 * plain.excess_by_ranges["min-max"]


@torch.no_grad()
def test_the_float_model_is_the_same_but_for_rounding(samples: CalibrationSet) -> None:
    found = quick(samples, learning=LearningConfig(steps=0))
    crop = to_tensor(samples.crops[PHOTOGRAPHS][0].lr[None])
    assert (found.model(crop) - fold(MODEL)(crop)).abs().max() < 1e-4


def test_it_is_the_same_each_time(samples: CalibrationSet) -> None:
    first, again = quick(samples), quick(samples)
    assert first.scales == again.scales
    assert (first.placement, first.drop_db, first.frontier) == (again.placement, again.drop_db, again.frontier)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_budget_that_nothing_meets_gives_the_best_there_is(samples: CalibrationSet) -> None:
    noisy = CalibrationSet(samples.crops, samples.held_out, samples.images, samples.origin)
    found = quick(noisy, max_drop=0.0, ranges="min-max", learning=LearningConfig(steps=0))
    assert found.met == any(point.excess <= 1 for point in found.frontier)
    if not found.met:
        assert found.losses in [point.losses for point in found.frontier]
    assert isinstance(found.placement, Placement)


@pytest.mark.parametrize("budget", [-0.1, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(budget: float, samples: CalibrationSet) -> None:
    with pytest.raises(InputError, match="budget"):
        quick(samples, max_drop=budget)


@pytest.mark.parametrize("options", [{"form": "npu"}, {"ranges": "guess"}, {"identities": "some"}])
def test_bad_options_are_refused(options: dict[str, str], samples: CalibrationSet) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        quick(samples, **options)


def test_progress_counts_to_what_was_announced(samples: CalibrationSet) -> None:
    stages: dict[str, int] = {}
    steps: list[str] = []
    calibrate(
        MODEL,
        samples,
        max_drop=1.0,
        config=CalibrationConfig(learning=LearningConfig(steps=3), identities="auto"),
        on_stage=stages.__setitem__,
        on_step=lambda: steps.append(next(reversed(stages))),
    )
    assert {name: steps.count(name) for name in stages} == stages
    assert np.sum(list(stages.values())) == len(steps)
