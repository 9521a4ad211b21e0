"""Ranges: histograms that stream, and methods that keep their promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import trained_like
from wdsr_calibration.network import LEVELS, Network
from wdsr_calibration.ranges import BINS, PERCENTILE, Histogram, channel_maxima, histograms, set_scales
from wdsr_edge import InputError
from wdsr_edge.images.samples import sample_frames
from wdsr_edge.models import ModelConfig
from wdsr_edge.models.reference import to_tensor

CROPS = [to_tensor(frame[None, 60:92, 60:92]) for frame in sample_frames().values()]
METHODS = ("min-max", "percentile", "entropy", "mse")


def network() -> Network:
    return Network(trained_like(ModelConfig("wdsr-b", 2, 8, 2)))


def reach(found: Histogram, method: str) -> float:
    """The reach that ``method`` gives a network whose every tensor has this histogram."""
    one = Network(trained_like(ModelConfig("wdsr-a", 1, 4, 2)))
    set_scales(one, dict.fromkeys(one.tensors, found), method)  # type: ignore[arg-type]
    (scale,) = set(one.scales.values())
    return scale * LEVELS


def of_values(values: torch.Tensor) -> Histogram:
    largest = float(values.abs().max())
    return Histogram(largest, torch.histc(values.abs(), BINS, 0, largest).double().numpy())


def test_maxima_are_those_of_every_crop() -> None:
    one = network()
    whole = channel_maxima(one, CROPS)
    each = [channel_maxima(one, [crop]) for crop in CROPS]
    assert whole.keys() == one.tensors.keys()
    for name, found in whole.items():
        assert torch.equal(found, torch.stack([maxima[name] for maxima in each]).amax(0))


def test_histograms_add_up() -> None:
    one = network()
    maxima = channel_maxima(one, CROPS)
    whole = histograms(one, CROPS, maxima)
    parts = [histograms(one, [crop], maxima) for crop in CROPS]
    for name, found in whole.items():
        np.testing.assert_array_equal(found.counts, sum(part[name].counts for part in parts))
        assert found.counts.sum() == len(maxima[name]) * 32 * 32 * len(CROPS)
        assert found.largest == maxima[name].max()


def test_one_crop_is_held_at_a_time() -> None:
    """The set may be larger than memory: crops are taken one by one, and only counts are kept."""
    alive = 0

    def crops() -> object:
        nonlocal alive
        for crop in CROPS:
            alive += 1
            yield crop.clone()

    found = channel_maxima(network(), crops())  # type: ignore[arg-type]
    assert alive == len(CROPS)
    assert all(maxima.ndim == 1 for maxima in found.values())


def test_ranges_are_of_the_unquantised_network() -> None:
    one = network()
    expected = channel_maxima(one, CROPS)
    one.place(one.quantisable, one.identities)
    for name, found in channel_maxima(one, CROPS).items():
        assert torch.equal(found, expected[name])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), tail=st.floats(1, 30))
def test_methods_on_a_bell_with_outliers(seed: int, tail: float) -> None:
    values = torch.randn(20000, generator=torch.Generator().manual_seed(seed))
    values[0] = 4 * tail
    found = of_values(values)
    reaches = {method: reach(found, method) for method in METHODS}
    assert reaches["min-max"] == pytest.approx(found.largest, rel=1e-3)
    assert all(0 < value <= found.largest * 1.001 for value in reaches.values())
    kept = float((values.abs() <= reaches["percentile"]).float().mean())
    assert kept == pytest.approx(PERCENTILE / 100, abs=2e-4)

    def error(reach: float) -> float:
        scale = reach / LEVELS
        return float((values - (values / scale).round().clamp(-LEVELS, LEVELS) * scale).square().mean())

    assert error(reaches["mse"]) <= min(map(error, reaches.values())) * 1.02
    if tail > 5:
        assert reaches["entropy"] < found.largest / 2


def test_zeros_of_a_relu_do_not_pull_the_entropy_range_in() -> None:
    values = torch.randn(50000, generator=torch.Generator().manual_seed(0)).relu()
    assert reach(of_values(values), "entropy") > 1.5


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_that_is_always_zero_gets_a_scale(method: str) -> None:
    assert reach(Histogram(0.0, np.zeros(BINS)), method) > 0


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="min-max, percentile, entropy, mse"):
        set_scales(network(), {}, "guess")  # type: ignore[arg-type]
