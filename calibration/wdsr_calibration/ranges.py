"""Activation ranges: a streaming pass for maxima, one for histograms, then a method for the range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wdsr_edge._errors import InputError

from .network import LEVELS, Network

RangeMethod = Literal["min-max", "percentile", "entropy", "mse"]

BINS = 8192
PERCENTILE = 99.99

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """Histogram of the magnitudes of one tensor."""

    largest: float
    """The largest magnitude; the bins divide 0 to it evenly."""
    counts: Counts
    """[BINS]."""


def channel_maxima(network: Network, crops: Iterable[Tensor]) -> Mapping[str, Tensor]:
    """The largest magnitude of each channel of each tensor, [C], while nothing is quantised."""
    found: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        most = x.abs().amax((0, 2, 3))
        found[name] = torch.maximum(found.get(name, most), most)

    _observe(network, crops, add)
    return found


def histograms(network: Network, crops: Iterable[Tensor], maxima: Mapping[str, Tensor]) -> Mapping[str, Histogram]:
    """A histogram of each tensor's magnitudes, given ``channel_maxima`` of the same crops."""
    largest = {name: float(most.max()) for name, most in maxima.items()}
    counts = {name: np.zeros(BINS) for name in largest}

    def add(name: str, x: Tensor) -> None:
        counts[name] += torch.histc(x.abs().float(), BINS, 0, largest[name] or 1.0).double().numpy()

    _observe(network, crops, add)
    return {name: Histogram(largest[name], counts[name]) for name in largest}


def set_scales(network: Network, found: Mapping[str, Histogram], method: RangeMethod) -> None:
    """Give every tensor of ``network`` the scale that ``method`` finds for its histogram."""
    if method not in get_args(RangeMethod):
        raise InputError(f"the range method must be one of {', '.join(get_args(RangeMethod))}, got {method!r}")
    for name, quantiser in network.tensors.items():
        reach = _METHODS[method](found[name]) if found[name].largest else 1.0
        quantiser.set_scale(reach / LEVELS)


def _observe(network: Network, crops: Iterable[Tensor], add: Callable[[str, Tensor], None]) -> None:
    network.place(())
    with torch.inference_mode(), network.watching() as seen:
        for crop in crops:
            network(crop)
            for name, x in seen.items():
                add(name, x)


def _min_max(histogram: Histogram) -> float:
    return histogram.largest


def _percentile(histogram: Histogram) -> float:
    """The magnitude that PERCENTILE of the values stay under."""
    share = np.cumsum(histogram.counts) / histogram.counts.sum()
    last = int(np.searchsorted(share, PERCENTILE / 100))
    return histogram.largest * (last + 1) / BINS


def _mse(histogram: Histogram) -> float:
    """The reach at which rounding and clipping together cost the least squared error."""
    values = (np.arange(BINS) + 0.5) * histogram.largest / BINS

    def error(reach: float) -> float:
        scale = reach / LEVELS
        rounded = np.round(np.minimum(values, reach) / scale) * scale
        return float((histogram.counts * (values - rounded) ** 2).sum())

    reaches: list[float] = (histogram.largest * np.linspace(0.1, 1, 181)).tolist()
    return min(reaches, key=error)


def _entropy(histogram: Histogram) -> float:
    """The reach whose quantised distribution is nearest to the real one in relative entropy.

    Migacz, 8-bit Inference with TensorRT, GTC 2017: the clipped tail is added to the last bin of the real one. The
    first bin holds the zeros of a ReLU, which any reach keeps, and counts as its neighbour does.
    """
    coarse = histogram.counts.reshape(2048, -1).sum(1)
    coarse[0] = coarse[1]
    best, least = len(coarse), np.inf
    for stop in range(LEVELS + 1, len(coarse) + 1, 8):
        real = coarse[:stop].copy()
        bins = (np.arange(stop) * (LEVELS + 1)) // stop
        used = coarse[:stop] > 0
        sums = np.bincount(bins, weights=coarse[:stop], minlength=LEVELS + 1)
        members = np.bincount(bins, weights=used, minlength=LEVELS + 1)
        quantised = np.where(used, (sums / np.maximum(members, 1))[bins], 0)
        real[-1] += coarse[stop:].sum()
        p, q = real / real.sum(), quantised / quantised.sum()
        both = p > 0
        divergence = float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))).sum())
        if divergence < least:
            best, least = stop, divergence
    return histogram.largest * best / len(coarse)


_METHODS: Mapping[RangeMethod, Callable[[Histogram], float]] = {
    "min-max": _min_max,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
