"""Calibration sets: crops that ranges and kernels are learned on, and other images that the drop is measured on.

Photographs come from ground-truth images, which DIV2K or any folder holds; LR files of the layout are used as they are,
others are made with the exact resampler. Next to them stand pictures that the project draws itself, of every kind of
``wdsr_edge.images.drawn``: INT8 ranges that have only seen photographs cut off what sharper edges reach. Everything is
drawn by a seed and an image's name, so the same images give the same set. A manifest says which images and which crops
instead:

    crops = [["0017", 0.43, 0.12], ...]    image, top and left as shares of what a crop can move by
    held_out = ["0003", ...]               images that the drop is measured on
    size = 48                              LR pixels a side
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wdsr_edge._errors import InputError
from wdsr_edge._files import read_regular, read_text, read_toml, replacing
from wdsr_edge.data.layouts import PairFiles, list_pairs
from wdsr_edge.data.pairs import Pair, bicubic, read_pair
from wdsr_edge.images.drawn import KINDS, draw

PHOTOGRAPHS = "photographs"
"""The content that comes from files; the others are the kinds of ``wdsr_edge.images.drawn``."""

LARGEST = 144
"""LR pixels a side that a held-out image is cut to, from its middle: enough to measure on, and quick."""

DRAWN_HELD_OUT = 8
"""Pictures of each drawn kind that the drop is measured on."""
DRAWN_SIZE = 64
"""LR pixels a side of these."""

MANIFESTS = (Path(__file__).parent / "manifests", Path(__file__).parents[1] / "manifests")
"""Where those that ship lie: in an installed package, in a checkout."""

Contents = Mapping[str, Sequence[Pair]]
"""Pairs by what they show: PHOTOGRAPHS, or a kind of ``wdsr_edge.images.drawn``."""

OnSkipped = Callable[[Path, str], None]
Place = tuple[str, float, float]


@dataclass(frozen=True)
class SampleConfig:
    """Size of a calibration set."""

    crops: int = 384
    """Crops, from as many images as there are."""
    size: int = 32
    """LR pixels a side of a crop."""
    drawn: int = 480
    """Crops of each drawn kind; 0 leaves photographs alone."""
    held_out: int = 24
    """Images for the drop, at most a quarter of those there are."""
    seed: int = 0
    """Which images, and where the crops lie."""

    def __post_init__(self) -> None:
        for name, least in (("crops", 1), ("size", 16), ("drawn", 0), ("held_out", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number from {least} up, got {value!r}")


@dataclass(frozen=True)
class CalibrationSet:
    """Images that a network is calibrated on."""

    crops: Contents
    """LR of uint8 [size, size, 3] with their ground truth."""
    held_out: Contents
    """The same of larger images, from none of which a crop was cut (unless there is only one photograph)."""
    images: Mapping[str, str]
    """The files used, by name, with the sha256 of each."""
    origin: Mapping[str, object]
    """Where it comes from: the folder's name, or the manifest's with its sha256, and the options."""

    @property
    def sha256(self) -> str:
        """One hash over all images."""
        lines = "".join(f"{self.images[name]}  {name}\n" for name in sorted(self.images))
        return hashlib.sha256(lines.encode()).hexdigest()


def sample_folders(
    folders: Sequence[str | os.PathLike[str]],
    scale: int,
    config: SampleConfig = SampleConfig(),
    *,
    on_skipped: OnSkipped = lambda path, reason: None,
) -> CalibrationSet:
    """A calibration set of the images in ``folders``: DIV2K's root (its training half) or any folder of images.

    Images that cannot be read, are smaller than a crop, or of one colour are left out, and told to ``on_skipped``.
    Raises InputError if what remains does not make ``config.crops`` different crops.
    """
    files = [file for folder in folders for file in list_pairs(folder, scale, "train")]
    order = [files[i] for i in np.random.default_rng(config.seed).permutation(len(files))]
    reader = _Reader(scale, config.size, on_skipped)
    wanted = min(config.held_out, len(order) // 4 or len(order) - 1)
    held_out: list[Pair] = []
    while len(held_out) < wanted and order:
        held_out += map(_middle, reader.read(order.pop(0)))
    crops = _drawn(reader, order, config)
    if len(crops) < config.crops:
        raise InputError(
            f"{', '.join(map(str, folders))}: {len(crops)} different crops of {config.size} LR pixels, not "
            f"{config.crops}: calibrate on more or larger images, or ask for fewer or smaller crops"
        )
    if not held_out:
        held_out = [_middle(pair) for pair in reader.read(files[0])]
    origin = {"folders": [Path(folder).resolve().name for folder in folders], **dataclasses.asdict(config)}
    return CalibrationSet(
        {PHOTOGRAPHS: crops, **drawn(config.drawn, config.size, scale, seed=2 * config.seed)},
        {PHOTOGRAPHS: held_out, **drawn(config.drawn and DRAWN_HELD_OUT, DRAWN_SIZE, scale, seed=2 * config.seed + 1)},
        reader.hashes,
        origin,
    )


def drawn(count: int, size: int, scale: int, *, seed: int) -> dict[str, list[Pair]]:
    """``count`` pairs of each kind of ``wdsr_edge.images.drawn``, ``size`` LR pixels a side; none if ``count`` is 0."""
    found: dict[str, list[Pair]] = {}
    for kind in KINDS if count else ():
        images = (draw(kind, (seed << 32) + i, (size * scale, size * scale)) for i in range(count))
        found[kind] = [Pair(f"{kind}-{i}", bicubic(hr, 1 / scale), hr) for i, hr in enumerate(images)]
    return found


def sample_manifest(
    manifest: str | os.PathLike[str], folder: str | os.PathLike[str], scale: int, *, record: Path | None = None
) -> CalibrationSet:
    """The calibration set that ``manifest`` (a file, or the name of one that ships) describes, of images in ``folder``.

    ``record`` is where the images' hashes are written on first use, and compared with afterwards. Raises InputError for
    a manifest that is wrong, or an image that is missing, too small, unreadable or not the one that was recorded.
    """
    path = find_manifest(manifest)
    places, held_out, size = _parse(path)
    files = {file.hr.stem: file for file in list_pairs(folder, scale, "train")}
    missing = sorted({name for name, _, _ in places}.union(held_out) - files.keys())
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} of the images that {path.name} names, {missing[0]} for one")

    def refuse(image: Path, reason: str) -> None:
        raise InputError(f"{path.name} names it, and {reason}")

    reader = _Reader(scale, size, refuse)
    crops = [
        cut(pair, size, *_corner(pair, size, top, left))
        for name, top, left in places
        for pair in reader.read(files[name], flat=True)
    ]
    pairs = [_middle(pair) for name in held_out for pair in reader.read(files[name])]
    if record is not None:
        _compare(record, reader.hashes)
    digest = hashlib.sha256(read_regular(path)).hexdigest()
    return CalibrationSet(
        {PHOTOGRAPHS: crops, **drawn(SampleConfig.drawn, size, scale, seed=0)},
        {PHOTOGRAPHS: pairs, **drawn(DRAWN_HELD_OUT, DRAWN_SIZE, scale, seed=1)},
        reader.hashes,
        {"manifest": path.name, "manifest_sha256": digest, "drawn": SampleConfig.drawn},
    )


def find_manifest(manifest: str | os.PathLike[str]) -> Path:
    """A manifest's file, given it or the name of one that ships; InputError lists those."""
    shipped = {path.stem: path for folder in MANIFESTS for path in folder.glob("*.toml")}
    path = Path(manifest)
    if path.is_file():
        return path
    if str(manifest) not in shipped:
        raise InputError(f"no manifest {str(manifest)[:100]!r}: expected a file or one of {', '.join(sorted(shipped))}")
    return shipped[str(manifest)]


class _Reader:
    """Reads pairs that calibration can use, and hashes their files."""

    def __init__(self, scale: int, size: int, on_skipped: OnSkipped) -> None:
        self.scale = scale
        self.size = size
        self.on_skipped = on_skipped
        self.hashes: dict[str, str] = {}
        self.bad: set[Path] = set()

    def read(self, file: PairFiles, *, flat: bool = False) -> list[Pair]:
        """The pair, or nothing if it cannot be used; ``flat`` takes images of one colour as well."""
        if file.hr in self.bad:
            return []
        try:
            pair = read_pair(file, self.scale, least=self.size)
            if not flat and pair.lr.max() == pair.lr.min():
                raise InputError(f"{file.hr} has one colour only")
        except InputError as error:
            self.bad.add(file.hr)
            self.on_skipped(file.hr, str(error))
            return []
        for path in (file.hr, file.lr):
            if path is not None and path.name not in self.hashes:
                self.hashes[path.name] = hashlib.sha256(read_regular(path)).hexdigest()
        return [pair]


def _drawn(reader: _Reader, files: Sequence[PairFiles], config: SampleConfig) -> list[Pair]:
    """Up to ``config.crops`` crops, spread over ``files`` evenly; an image is only held while it is cut."""
    quota = -(-config.crops // max(1, len(files)))
    while True:
        by_image: list[list[Pair]] = []
        for file in files:
            by_image += [list(_crops(pair, config, quota)) for pair in reader.read(file)]
            if sum(map(len, by_image)) >= config.crops and quota == 1:
                break
        drawn = [crop for rank in range(quota) for crops in by_image for crop in crops[rank : rank + 1]]
        if len(drawn) >= config.crops or not any(len(crops) == quota for crops in by_image):
            return drawn[: config.crops]
        quota *= 2


def _crops(pair: Pair, config: SampleConfig, quota: int) -> Iterator[Pair]:
    """Up to ``quota`` different crops of an image, none of one colour."""
    free = pair.lr.shape[0] - config.size + 1, pair.lr.shape[1] - config.size + 1
    random = np.random.default_rng([config.seed, zlib.crc32(pair.name.encode())])
    seen: set[int] = set()
    for _ in range(8 * quota):
        place = int(random.integers(free[0] * free[1]))
        top, left = divmod(place, free[1])
        crop = cut(pair, config.size, top, left)
        if place not in seen and crop.lr.max() > crop.lr.min():
            yield crop
        seen.add(place)
        if len(seen) == quota:
            return


def _corner(pair: Pair, size: int, top: float, left: float) -> tuple[int, int]:
    """The corner of a crop that lies at these shares of what it can move by."""
    return round(top * (pair.lr.shape[0] - size)), round(left * (pair.lr.shape[1] - size))


def cut(pair: Pair, size: int, top: int, left: int) -> Pair:
    """The crop of ``size`` LR pixels a side at this corner."""
    return _window(pair, top, left, size, size)


def _window(pair: Pair, top: int, left: int, height: int, width: int) -> Pair:
    scale = len(pair.hr) // len(pair.lr)
    lr = pair.lr[top : top + height, left : left + width]
    hr = pair.hr[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
    return Pair(pair.name, lr.copy(), hr.copy())


def _middle(pair: Pair) -> Pair:
    """The middle of an image, at most LARGEST LR pixels a side."""
    (top, height), (left, width) = (
        ((side - min(side, LARGEST)) // 2, min(side, LARGEST)) for side in pair.lr.shape[:2]
    )
    return _window(pair, top, left, height, width)


def _parse(path: Path) -> tuple[list[Place], list[str], int]:
    values = read_toml(path)
    crops, held_out, size = (values.get(key) for key in ("crops", "held_out", "size"))
    if not isinstance(size, int) or size < 16:
        raise InputError(f"{path}: size must be a whole number of LR pixels from 16 up")
    if not isinstance(held_out, list) or not held_out or not all(isinstance(name, str) for name in held_out):
        raise InputError(f"{path}: held_out must be a list of image names, not empty")
    if not isinstance(crops, list) or not crops:
        raise InputError(f"{path}: crops must be a list of [image, top, left], not empty")
    places = []
    for crop in crops:
        match crop:
            case [str(name), float() | int() as top, float() | int() as left] if 0 <= top <= 1 and 0 <= left <= 1:
                places.append((name, float(top), float(left)))
            case _:
                raise InputError(f"{path}: a crop is [image, top, left] with top and left from 0 to 1, got {crop!r}")
    both = {name for name, _, _ in places} & set(held_out)
    if both:
        raise InputError(f"{path}: {min(both)} is listed in both crops and held_out")
    return places, held_out, size


def _compare(record: Path, hashes: Mapping[str, str]) -> None:
    """Write ``hashes`` in the form of sha256sum where there is no record, else compare."""
    if not record.exists():
        with replacing(record) as fresh:
            fresh.write_text("".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)), encoding="utf-8")
        return
    try:
        lines = read_text(record).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{record} cannot be read ({error}): remove it") from error
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name, digest in hashes.items():
        if known.get(name, digest) != digest:
            raise InputError(f"{name} is not the image that was recorded in {record}: restore it, or remove the record")
