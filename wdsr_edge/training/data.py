"""Images on disk, decoded once, and random patches of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .._errors import InputError, WdsrError
from ..data.layouts import PairFiles, Split, list_pairs
from ..data.pairs import Pair, bicubic, read_pair
from ..images.degradation import Recipe
from ..images.drawn import KINDS, draw
from ..images.files import Rgb
from ..models.reference import to_tensor
from .cache import CacheError, ImageCache, Stored
from .distributed import World
from .recipe import TrainConfig

Batch = tuple[Tensor, Tensor]
"""LR and HR patches, float32 NCHW RGB in [0, 1]."""


class StoredPair(NamedTuple):
    """A pair in the cache. The HR image is not cropped yet."""

    name: str
    lr: Stored
    hr: Stored


class StoredPairs(Sequence[Pair]):
    """Pairs that are mapped from the cache when they are asked for."""

    def __init__(self, pairs: Sequence[StoredPair], scale: int) -> None:
        self._pairs, self._scale = pairs, scale

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> StoredPairs: ...

    def __getitem__(self, index: int | slice) -> Pair | StoredPairs:
        if isinstance(index, slice):
            return StoredPairs(self._pairs[index], self._scale)
        name, lr, hr = self._pairs[index]
        height, width = lr.height * self._scale, lr.width * self._scale
        return Pair(name, lr.open(), hr.open()[:height, :width])


def open_pairs(
    folders: Sequence[str | os.PathLike[str]],
    scale: int,
    cache: ImageCache,
    *,
    split: Split = "train",
    least: int = 1,
    on_skipped: Callable[[str], None] = lambda reason: None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> StoredPairs:
    """Every usable image of ``folders`` as a pair that is memory-mapped from ``cache``, in the order of the files.

    The layouts are those of ``wdsr_edge.data.layouts.list_pairs``. An image that cannot be read, does not fit its LR or
    has fewer than ``least`` LR pixels a side is skipped, and ``on_skipped`` is told why. ``on_image`` is told how many
    are done. Raises InputError if none remains.
    """
    files = [file for folder in folders for file in list_pairs(folder, scale, split)]

    def store(file: PairFiles) -> StoredPair | str:
        entries: list[Stored] = []

        def keep(source: Path, what: str, make: Callable[[], Rgb]) -> Rgb:
            entries.append(cache.keep(source, what, make))
            return entries[-1].open()

        try:
            name = read_pair(file, scale, least=least, keep=keep).name
        except CacheError:
            raise
        except WdsrError as error:
            return str(error)
        hr, lr = entries
        return StoredPair(name, lr, hr)

    pairs = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, found in enumerate(pool.map(store, files), 1):
            if isinstance(found, StoredPair):
                pairs.append(found)
            else:
                on_skipped(found)
            on_image(done, len(files))
    if not pairs:
        raise InputError(f"no usable image in {', '.join(map(str, folders))}")
    return StoredPairs(pairs, scale)


@dataclass(frozen=True)
class Variety:
    """Training content besides clean photographs."""

    drawn: Sequence[Pair] = ()
    """Pictures that the project draws."""
    share: float = 0.0
    """Share of the patches that are of these."""
    degradations: Recipe | None = None
    """Recipe that makes LR patches of all of them; None takes those of the pairs."""


DRAWN_OF_A_KIND = 64
"""Pictures of each kind of ``wdsr_edge.images.drawn`` that patches are cut from."""
_DRAWN_SIZE = 96
"""LR pixels a side of these, or a patch if that is larger."""
_SEED = 3 << 40
"""Beyond the seeds of the pictures that calibration and tests draw."""


class DrawnPairs(Sequence[Pair]):
    """Pictures of every kind of ``wdsr_edge.images.drawn``, always the same, each drawn when it is first asked for."""

    def __init__(self, scale: int, patch: int) -> None:
        self._scale, self._side = scale, max(_DRAWN_SIZE, patch) * scale
        self._drawn: dict[int, Pair] = {}

    def __len__(self) -> int:
        return DRAWN_OF_A_KIND * len(KINDS)

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...

    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index not in self._drawn:
            i, kind = divmod(range(len(self))[index], len(KINDS))
            image = draw(KINDS[kind], _SEED + i, (self._side, self._side))
            self._drawn[index] = Pair(f"{KINDS[kind]}-{i}", bicubic(image, 1 / self._scale), image)
        return self._drawn[index]


def random_patches(
    pairs: Sequence[Pair],
    patch: int,
    batch: int,
    seed: Sequence[int],
    share: slice = slice(None),
    variety: Variety = Variety(),
) -> Batch:
    """``batch`` random LR crops of ``patch`` pixels a side with their HR crops, flipped and rotated at random.

    The same ``seed`` gives the same patches, so a resumed run draws what it would have. ``share`` takes some of them.
    """
    rng = np.random.default_rng(seed)
    lrs: list[Rgb] = []
    hrs: list[Rgb] = []
    wanted = range(batch)[share]
    for i, index in enumerate(rng.integers(len(pairs), size=batch)):
        pair = pairs[index]
        if variety.share and rng.random() < variety.share:
            pair = variety.drawn[int(rng.integers(len(variety.drawn)))]
        _, lr, hr = pair
        scale = len(hr) // len(lr)
        top, left = (int(rng.integers(side - patch + 1)) for side in lr.shape[:2])
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        if i not in wanted:
            continue
        if variety.degradations is not None:
            own = np.random.default_rng([*seed, i])
            lr, hr, top, left = _degraded(lr, hr, top, left, patch, variety.degradations, own)
        for image, factor, patches in ((lr, 1, lrs), (hr, scale, hrs)):
            y, x, size = top * factor, left * factor, patch * factor
            crop = np.rot90(image[y : y + size, x : x + size], turns)
            patches.append(np.array(crop[:, ::-1] if flip else crop))  # a copy, so that nothing stays mapped
    return to_tensor(np.stack(lrs)), to_tensor(np.stack(hrs))


_MARGIN = 8
"""LR pixels around a patch that are degraded with it: what lies outside bears on it, and codecs have blocks of 8."""


def _degraded(
    lr: Rgb, hr: Rgb, top: int, left: int, patch: int, recipe: Recipe, random: np.random.Generator
) -> tuple[Rgb, Rgb, int, int]:
    """A degraded part of an image, its ground truth, and where in it the patch lies; as it was if it stays clean."""
    degradation = recipe.draw(random)
    if degradation is None:
        return lr, hr, top, left
    scale = len(hr) // len(lr)
    wanted = (patch + 2 * _MARGIN + -(-recipe.reach // scale)) * scale
    starts = [max(0, at - _MARGIN) * scale for at in (top, left)]
    y, x = (max(0, min(start, side - wanted)) for start, side in zip(starts, hr.shape[:2], strict=True))
    part = hr[y : y + wanted, x : x + wanted]
    missing = [(0, wanted - side) for side in part.shape[:2]]
    if any(after for _, after in missing):
        part = np.pad(part, (*missing, (0, 0)), mode="symmetric")
    low, high = degradation(part, scale, random)
    top, left = (int(random.integers(room // 4, room - room // 4 + 1)) for room in (s - patch for s in low.shape[:2]))
    return low, high, top, left


class _Steps(Dataset[Batch]):
    """The batch of each step, so that any step can be drawn in any process."""

    def __init__(self, pairs: Sequence[Pair], recipe: TrainConfig, share: slice, variety: Variety) -> None:
        self.pairs, self.recipe, self.share, self.variety = pairs, recipe, share, variety

    def __getitem__(self, step: int) -> Batch:
        recipe = self.recipe
        return random_patches(self.pairs, recipe.patch, recipe.batch, (recipe.seed, step), self.share, self.variety)


def batches(
    pairs: Sequence[Pair],
    recipe: TrainConfig,
    first: int,
    world: World,
    device: torch.device,
    degradations: Recipe | None = None,
) -> Iterator[Batch]:
    """This process's share of the batch of every step from ``first`` on, on ``device``."""
    drawn = DrawnPairs(len(pairs[0].hr) // len(pairs[0].lr), recipe.patch) if recipe.drawn else ()
    variety = Variety(drawn, recipe.drawn, degradations)
    on_gpu = device.type == "cuda"
    workers = (4 if on_gpu else 0) if recipe.workers is None else recipe.workers
    steps = _Steps(pairs, recipe, world.share(recipe.batch), variety)
    order = range(first, recipe.steps)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for pair in DataLoader(steps, batch_size=None, sampler=order, num_workers=workers, pin_memory=on_gpu):
        lr, hr = (patches.to(device, non_blocking=True, memory_format=layout) for patches in pair)
        yield lr, hr
