"""Networks on pictures that cameras and codecs deliver, compared with plain enlarging. Works without torch."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .data.pairs import Pair, bicubic
from .evaluation import Score, Upscale, mean_score, score
from .images.degradation import Degradation
from .images.files import Rgb

CONDITIONS: Mapping[str, str] = {
    "clean (MATLAB bicubic)": "bicubic",
    "JPEG, quality 30": "jpeg:30",
    "JPEG, quality 50": "jpeg:50",
    "JPEG, quality 75": "jpeg:75",
    "JPEG, quality 90": "jpeg:90",
    "noise, sigma 2": "noise:2",
    "noise, sigma 5": "noise:5",
    "noise, sigma 10": "noise:10",
    "cubic without antialias": "cubic",
    "area 2x2": "area",
    "bilinear, antialiased": "bilinear",
    "Gauss 0.8, decimated": "blur:0.8",
    "Gauss 1.2, decimated": "blur:1.2",
    "Gauss 1.6, decimated": "blur:1.6",
    "H.264, CRF 18": "h264:18",
    "H.264, CRF 23": "h264:23",
    "H.264, CRF 28": "h264:28",
    "H.264, CRF 33": "h264:33",
    "area, sensor noise, CRF 28": "area+sensor:1.5:0.02+h264:28",
    "area, sensor noise, JPEG 85": "area+sensor:2:0.04+jpeg:85",
}
"""The 20 conditions of the tables, as ``wdsr_edge.images.degradation`` writes them."""

BICUBIC, LANCZOS = "bicubic", "Lanczos"
"""Baselines of every network."""


@dataclass(frozen=True)
class Figures:
    """Scores of one way of enlarging under one condition."""

    images: Sequence[Score]
    lost: Sequence[str]
    """Images with less PSNR on luma than bicubic enlarging has."""

    @property
    def mean(self) -> Score:
        """The mean of each figure over images."""
        return mean_score(self.images)


def lanczos(image: Rgb, scale: int) -> Rgb:
    """Pillow's Lanczos enlarging of a uint8 RGB image."""
    from PIL import Image

    size = image.shape[1] * scale, image.shape[0] * scale
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def degraded(pairs: Iterable[Pair], degradation: str) -> Iterator[Pair]:
    """``pairs`` with LR pictures made by ``degradation``; the names of both are the seed."""
    degrade = Degradation.parse(degradation)
    for pair in pairs:
        seed = [zlib.crc32(text.encode("utf-8", "surrogateescape")) for text in (pair.name, degradation)]
        random = np.random.default_rng(seed)
        yield Pair(pair.name, *degrade(pair.hr, len(pair.hr) // len(pair.lr), random))


def compare(upscales: Mapping[str, Upscale], pairs: Iterable[Pair], degradation: str, scale: int) -> dict[str, Figures]:
    """Figures of each of ``upscales``, of BICUBIC and of LANCZOS, on ``pairs`` degraded.

    Raises InputError if ``degradation`` is not written right, or an image is too small for it.
    """
    ways: dict[str, Upscale] = {
        **upscales,
        BICUBIC: lambda frame: bicubic(frame, scale),
        LANCZOS: lambda frame: lanczos(frame, scale),
    }
    scores: dict[str, list[Score]] = {way: [] for way in ways}
    for pair in degraded(pairs, degradation):
        for way, upscale in ways.items():
            scores[way].append(score(pair, upscale(pair.lr)))
    return {way: Figures(found, _lost(found, scores[BICUBIC])) for way, found in scores.items()}


def _lost(scores: Sequence[Score], plain: Sequence[Score]) -> list[str]:
    return [ours.name for ours, theirs in zip(scores, plain, strict=True) if ours.psnr_y < theirs.psnr_y]
