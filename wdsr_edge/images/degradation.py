"""Degradations: how the picture that a network gets came about, written as text or drawn at random from a recipe.

Networks that have only seen MATLAB's bicubic take noise and blocks for detail and sharpen them: on JPEG files and video
they lose to plain bicubic enlarging. So training and evaluation degrade the ground truth as cameras and codecs do.

A degradation is written as steps joined by ``+``, each a name with its numbers behind colons: ``jpeg:50``,
``area+sensor:2:0.04+jpeg:85``, ``blur:1.2``. Numbers may be ranges, ``jpeg:30..95``, from which each use draws evenly.
First come steps of the lens, in pixels of the ground truth; then a resize (``bicubic``, MATLAB's, if none is named;
after a lens alone ``decimation``, which samples what the lens gives at the middle of each LR pixel); then the others.
STEPS lists them. A recipe is a TOML file of stages, each with a share and steps one of which is drawn:

    clean = 0.15                                            # share that stays MATLAB's bicubic
    [[stage]]
    share = 0.5                                             # of the others; 1 if it is not named
    one_of = ["blur:0.3..1.4", "defocus:0.5..1.5"]
    [[stage]]
    one_of = ["bicubic", "area", "cubic"]
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from numpy.random import Generator

from .._errors import InputError
from .._files import read_toml
from . import degradation_steps as steps
from .degradation_steps import RESIZES, VIDEO_FRAMES
from .files import Rgb


class Argument(NamedTuple):
    """A number of a step."""

    name: str
    low: float
    high: float
    default: float | None = None
    """Default value; None if the number is required."""


LENS: Mapping[str, tuple[Argument, ...]] = {
    "blur": (Argument("sigma", 0, 20), Argument("second sigma", 0, 20, -1), Argument("degrees", -360, 360, 0)),
    "defocus": (Argument("radius", 0, 20),),
}
"""Blur by a Gaussian, one standard deviation or two and their turn; by a disc. Pixels of the ground truth."""

_MOTION = (Argument("pixels down a frame", -16, 16, 1), Argument("pixels to the right a frame", -16, 16, 3))

AFTER: Mapping[str, tuple[Argument, ...]] = {
    "sharpen": (Argument("amount", 0, 5), Argument("sigma", 0.1, 10, 1)),
    "noise": (Argument("sigma", 0, 255),),
    "sensor": (Argument("read", 0, 255), Argument("shot", 0, 100), Argument("grey", 0, 1, 0.6)),
    "bayer": (Argument("read", 0, 255), Argument("shot", 0, 100)),
    "chroma": (),
    "jpeg": (Argument("quality", 1, 100),),
    "h264": (Argument("crf", 0, 51), *_MOTION),
    "h265": (Argument("crf", 0, 51), *_MOTION),
}
"""Steps on the LR picture: halos, noise (levels), colour at half the size, and codecs at their own scales."""

VIDEO = ("h264", "h265")
"""These film a window that moves over the ground truth, and the last frame is the picture."""

STEPS: Mapping[str, tuple[Argument, ...]] = {**LENS, **dict.fromkeys(RESIZES, ()), **AFTER}
"""Every step with its numbers."""

BUILT_IN = Path(__file__).parent / "recipes"
"""Recipes that ship, by name."""


@dataclass(frozen=True)
class Step:
    """One step, its numbers as ranges."""

    name: str
    ranges: tuple[tuple[float, float], ...]

    def draw(self, random: Generator) -> tuple[str, list[float]]:
        """Its name, and its numbers: drawn evenly from ranges."""
        return self.name, [low if low == high else float(random.uniform(low, high)) for low, high in self.ranges]


@dataclass(frozen=True)
class Degradation:
    """From the ground truth to an LR picture."""

    lens: Step | None
    resize: str
    after: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Degradation:
        """The degradation that ``text`` writes down; InputError says what is wrong with it."""
        return _joined((_parse_step(part, text) for part in text.split("+")), text)

    def __call__(self, truth: Rgb, scale: int, random: Generator) -> tuple[Rgb, Rgb]:
        """The LR picture, and what of ``truth`` it shows: all of it, unless it was filmed with a camera that moves.

        ``truth``: uint8 [H, W, 3] RGB, a multiple of ``scale`` each way. Raises InputError if that is too small.
        """
        numbers = [step.draw(random) for step in self.after]
        lens = self.lens.draw(random) if self.lens else None
        video = next((i for i, (name, _) in enumerate(numbers) if name in VIDEO), None)
        if video is None:
            return self._taken(truth, scale, lens, numbers, random), truth
        codec, (crf, *motion) = numbers[video]
        windows = _windows(truth, scale, *map(round, motion))
        frames = [self._taken(window, scale, lens, numbers[:video], random) for window in windows]
        last = steps.filmed(frames, codec, round(crf))
        return _processed(last, numbers[video + 1 :], random), windows[-1]

    def _taken(
        self,
        truth: Rgb,
        scale: int,
        lens: tuple[str, list[float]] | None,
        after: Iterable[tuple[str, list[float]]],
        random: Generator,
    ) -> Rgb:
        if lens is None:
            lr = RESIZES[self.resize](truth, scale)
        elif self.resize == "decimation":
            lr = steps.at_centres(truth, scale, *_kernel(lens))
        else:
            lr = RESIZES[self.resize](steps.blurred(truth, *_kernel(lens)), scale)
        return _processed(lr, after, random)


def _kernel(lens: tuple[str, list[float]]) -> tuple[steps.Kernel, float]:
    name, numbers = lens
    if name == "defocus":
        return steps.disc(*numbers)
    sigma, second, degrees = numbers
    return steps.gaussian(sigma, sigma if second < 0 else second, degrees)


def _processed(lr: Rgb, after: Iterable[tuple[str, list[float]]], random: Generator) -> Rgb:
    done: Mapping[str, Callable[..., Rgb]] = {
        "sharpen": steps.sharpened,
        "noise": partial(steps.noisy, random=random),
        "sensor": partial(steps.sensed, random=random),
        "bayer": partial(steps.demosaicked, random=random),
        "chroma": steps.subsampled,
        "jpeg": lambda image, quality: steps.jpeg(image, round(quality)),
    }
    for name, numbers in after:
        lr = done[name](lr, *numbers)
    return lr


def _windows(truth: Rgb, scale: int, down: int, right: int) -> list[Rgb]:
    """The part of ``truth`` that each frame shows, the window moving by so many pixels from frame to frame."""
    height, width = (
        (side - (VIDEO_FRAMES - 1) * abs(move)) // scale * scale
        for side, move in zip(truth.shape[:2], (down, right), strict=True)
    )
    if min(height, width) < 16 * scale:
        raise InputError(f"an image of {truth.shape[1]}x{truth.shape[0]} is too small to be filmed in motion")
    tops, lefts = ([i * abs(move) for i in range(VIDEO_FRAMES)][:: 1 if move >= 0 else -1] for move in (down, right))
    return [truth[top : top + height, left : left + width] for top, left in zip(tops, lefts, strict=True)]


def _joined(parts: Iterable[Step], text: str) -> Degradation:
    """Steps in the order in which a picture is taken."""
    lens: Step | None = None
    resize = ""
    after: list[Step] = []
    for step in parts:
        if step.name in LENS:
            if lens or resize or after:
                raise InputError(f"{text!r}: {step.name} must come first, and once: a lens is in front of all else")
            lens = step
        elif step.name in RESIZES:
            if resize or after:
                raise InputError(f"{text!r}: {step.name} must come before {(after or [step])[0].name}, and once")
            resize = step.name
        else:
            if step.name in VIDEO and any(one.name in VIDEO for one in after):
                raise InputError(f"{text!r}: a picture is filmed once")
            after.append(step)
    return Degradation(lens, resize or ("decimation" if lens else "bicubic"), tuple(after))


def _parse_step(part: str, text: str) -> Step:
    name, *numbers = part.strip().split(":")
    if name not in STEPS:
        raise InputError(f"{text[:100]!r}: unknown step {name[:100]!r}, there are {', '.join(STEPS)}")
    arguments = STEPS[name]
    needed = [argument for argument in arguments if argument.default is None]
    if not len(needed) <= len(numbers) <= len(arguments):
        wanted = ":".join([name, *(argument.name.upper().replace(" ", "-") for argument in needed)])
        raise InputError(f"{text[:100]!r}: {name} takes {len(needed)} to {len(arguments)} numbers, such as {wanted}")
    ranges = [_parse_range(number, argument, text) for number, argument in zip(numbers, arguments, strict=False)]
    ranges += [(argument.default or 0,) * 2 for argument in arguments[len(numbers) :]]
    return Step(name, tuple(ranges))


def _parse_range(number: str, argument: Argument, text: str) -> tuple[float, float]:
    first, dots, last = number.partition("..")
    try:
        low, high = float(first), float(last if dots else first)
    except ValueError:
        low = high = math.nan
    if not argument.low <= low <= high <= argument.high:  # nor NaN
        raise InputError(
            f"{text[:100]!r}: {argument.name} must be a number from {argument.low:g} to {argument.high:g}, or a range "
            f"such as {argument.low:g}..{argument.high:g}, got {number[:40]!r}"
        )
    return low, high


@dataclass(frozen=True)
class Stage:
    """A part of a recipe: one of these steps, or none."""

    share: float
    """Probability that there is one."""
    one_of: tuple[Step, ...]


@dataclass(frozen=True)
class Recipe:
    """Degradations to draw from."""

    clean: float
    """Share that stays MATLAB's bicubic."""
    stages: tuple[Stage, ...]

    def draw(self, random: Generator) -> Degradation | None:
        """One degradation, its numbers still to be drawn; None for a picture that stays clean."""
        if random.random() < self.clean:
            return None
        drawn = []
        for stage in self.stages:
            if random.random() < stage.share:
                drawn.append(stage.one_of[int(random.integers(len(stage.one_of)))])
        return _joined(drawn, "+".join(step.name for step in drawn))

    @property
    def reach(self) -> int:
        """Pixels of the ground truth that filming one picture moves by at most."""
        moves = [
            max(abs(bound) for bound in bounds)
            for stage in self.stages
            for step in stage.one_of
            if step.name in VIDEO
            for bounds in step.ranges[1:]
        ]
        return math.ceil(max(moves, default=0)) * (VIDEO_FRAMES - 1)


def read_recipe(name: str | os.PathLike[str]) -> Recipe:
    """A recipe's file, or one that ships, by its name; InputError says what is wrong with it."""
    shipped = {path.stem: path for path in sorted(BUILT_IN.glob("*.toml"))}
    path = shipped.get(str(name), Path(name))
    if not path.exists():
        raise InputError(f"no recipe {str(name)[:100]!r}: expected a TOML file or one of {', '.join(shipped)}")
    values = read_toml(path)
    clean, stages = values.pop("clean", 0.0), values.pop("stage", [])
    if values:
        raise InputError(f"{path}: unknown key {next(iter(values))[:100]!r}: a recipe has clean and [[stage]]")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, dict) for stage in stages):
        raise InputError(f"{path}: a recipe has tables [[stage]], at least one")
    recipe = Recipe(_share(clean, "clean", path), tuple(_parse_stage(stage, path) for stage in stages))
    _check_order(recipe, path)
    return recipe


def _parse_stage(stage: dict[str, Any], path: Path) -> Stage:
    wanted = {"share", "one_of"}
    if stage.keys() - wanted:
        raise InputError(f"{path}: unknown key {min(stage.keys() - wanted)[:100]!r}: a stage has share and one_of")
    one_of = stage.get("one_of")
    if not isinstance(one_of, list) or not one_of or not all(isinstance(step, str) for step in one_of):
        raise InputError(f"{path}: one_of must be a list of steps, such as ['jpeg:30..95']")
    return Stage(_share(stage.get("share", 1.0), "share", path), tuple(_parse_step(step, step) for step in one_of))


def _share(value: object, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"{path}: {name} must be a number from 0 to 1, got {str(value)[:40]}")
    return float(value)


def _check_order(recipe: Recipe, path: Path) -> None:
    """Refuse a recipe that could draw steps in an order in which no picture is taken."""
    order = []
    for stage in recipe.stages:
        kinds = {0 if step.name in LENS else 1 if step.name in RESIZES else 2 for step in stage.one_of}
        order.append(min(kinds) if len(kinds) == 1 else -1)
    if -1 in order or order != sorted(order) or order.count(0) > 1 or order.count(1) > 1:
        raise InputError(f"{path}: stages must be at most one of lenses, at most one of resizes, then others")
    if sum(any(step.name in VIDEO for step in stage.one_of) for stage in recipe.stages) > 1:
        raise InputError(f"{path}: a picture is filmed once: name {' and '.join(VIDEO)} in one stage")
