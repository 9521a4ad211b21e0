"""Random patches from images in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..evaluation import Pair
from ..images import Rgb
from ..models.reference import to_tensor


def random_patches(pairs: Sequence[Pair], patch: int, batch: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``batch`` random LR crops of ``patch`` pixels a side with their HR crops, flipped and rotated at random.

    Float32 NCHW RGB in [0, 1]. The same ``seed`` gives the same patches, so a resumed run draws what it would have.
    """
    rng = np.random.default_rng(seed)
    lrs: list[Rgb] = []
    hrs: list[Rgb] = []
    for index in rng.integers(len(pairs), size=batch):
        _, lr, hr = pairs[index]
        scale = len(hr) // len(lr)
        top, left = (int(rng.integers(side - patch + 1)) for side in lr.shape[:2])
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        for image, factor, patches in ((lr, 1, lrs), (hr, scale, hrs)):
            y, x, size = top * factor, left * factor, patch * factor
            crop: Rgb = np.rot90(image[y : y + size, x : x + size], turns)
            patches.append(crop[:, ::-1] if flip else crop)
    return to_tensor(np.stack(lrs)), to_tensor(np.stack(hrs))
