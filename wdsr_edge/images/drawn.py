"""Pictures that no camera takes, drawn by rule: text, line art, screentone, user interfaces, flats and gradients.

Networks and INT8 ranges that have only seen photographs fail on edges sharper than any lens makes, and on colours
more even than any light. These pictures are what training, calibration and tests add. The same kind, seed and size
give the same pixels with the same versions of Pillow and matplotlib, which carry the fonts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .._errors import InputError, require
from .files import Rgb

Kind = Literal["text", "line-art", "screentone", "ui", "flats", "gradients"]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All of them."""

SHARP: tuple[Kind, ...] = ("text", "line-art", "screentone", "ui")
"""Those with edges everywhere, where PSNR to the ground truth tells; the others come back almost exactly."""

Colour = tuple[int, int, int]

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
_STRONG = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), WHITE, BLACK)
_TEXT = """
    the quick brown fox jumps over a lazy dog Invoice 2047 net 1,299.00 EUR total {paid} <today> page 3/17
    Überprüfung façade naïve Zürich [x] yes (no) 50 % off * SALE * A4 210x297 mm f(x) = a*x^2 + b; return None
    0123456789 HAMBURGEFONSTIV illicit minimum WAVE www.example.org user@host #include int main() { } // TODO list
"""
_WORDS = _TEXT.split()
_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Italic.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
)
_SUPERSAMPLED = 4
"""Drawn so many times as large and averaged: Pillow draws shapes without antialiasing."""


def draw(kind: Kind, seed: int, size: tuple[int, int] = (256, 256)) -> Rgb:
    """A picture of ``kind``, uint8 [height, width, 3] RGB, of ``size`` (height, width; 16 pixels or more a side).

    Raises InputError for an unknown kind or a size that is too small, MissingExtraError without matplotlib's fonts.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if min(size) < 16:
        raise InputError(f"a picture has at least 16 pixels a side, got {size[1]}x{size[0]}")
    random = np.random.default_rng([KINDS.index(kind), seed])
    return _DRAWN[kind](random, *size)


def _colours(random: Generator) -> tuple[Colour, Colour]:
    """Ink and paper: mostly black and white or grey, else any two that differ in luma by a third."""
    which = random.random()
    if which < 0.25:
        return BLACK, WHITE
    if which < 0.4:
        return WHITE, BLACK
    while True:
        if which < 0.55:
            ink, paper = (_colour([int(random.integers(256))] * 3) for _ in range(2))
        elif which < 0.7:
            ink, paper = (_STRONG[int(random.integers(len(_STRONG)))] for _ in range(2))
        else:
            ink, paper = (_colour(random.integers(256, size=3).tolist()) for _ in range(2))
        if abs(_luma(ink) - _luma(paper)) > 85:
            return ink, paper


def _colour(values: Sequence[int]) -> Colour:
    red, green, blue = values
    return red, green, blue


def _luma(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _any_colour(random: Generator) -> Colour:
    if random.random() < 0.5:
        return _STRONG[int(random.integers(len(_STRONG)))]
    return _colour(random.integers(256, size=3).tolist())


@cache
def _font(index: int, size: int) -> Any:
    """One of the fonts that Pillow (the last) and matplotlib carry."""
    from PIL import ImageFont

    if index == len(_FONTS):
        return ImageFont.load_default(size)
    folder = Path(require("matplotlib", "export").get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / _FONTS[index]), size)


def _any_font(random: Generator, size: int) -> Any:
    return _font(int(random.integers(len(_FONTS) + 1)), size)


def _words(random: Generator, count: int) -> str:
    return " ".join(_WORDS[i] for i in random.integers(len(_WORDS), size=count))


def _text(random: Generator, height: int, width: int) -> Rgb:
    """Lines of text, columns of one size and font; small print to headlines."""
    from PIL import Image, ImageDraw

    ink, paper = _colours(random)
    image = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(image)
    y = int(random.integers(-4, 8))
    size = _text_size(random)
    while y < height:
        if random.random() < 0.3:
            size = _text_size(random)
        font = _any_font(random, size)
        if random.random() < 0.08:
            ink = _any_colour(random)
            if abs(_luma(ink) - _luma(paper)) < 85:
                ink = WHITE if _luma(paper) < 128 else BLACK
        pen.text((int(random.integers(-8, 12)), y), _words(random, 4 + width // (3 * size)), fill=ink, font=font)
        y += math.ceil(size * random.uniform(1.05, 1.5))
    return np.asarray(image)


def _text_size(random: Generator) -> int:
    """Pixels, from 9 to 56, small ones more often."""
    return int(9 * (56 / 9) ** (random.random() ** 1.3))


def _line_art(random: Generator, height: int, width: int) -> Rgb:
    """Strokes, curves, circles, polygons and hatching, thin to thick."""
    from PIL import Image, ImageDraw

    n = _SUPERSAMPLED
    ink, paper = _colours(random)
    image = Image.new("RGB", (width * n, height * n), paper)
    pen = ImageDraw.Draw(image)
    reach = n * max(height, width)
    for _ in range(int(random.integers(10, 36)) * height * width // 65536 + 4):
        thick = max(n // 2, round(n * 0.6 * 10 ** random.random()))
        x, y = (float(v) for v in random.uniform(0, 1, 2) * (width * n, height * n))
        radius = random.uniform(0.03, 0.4) * reach
        box = (x - radius, y - radius * random.uniform(0.3, 1), x + radius, y + radius * random.uniform(0.3, 1))
        match int(random.integers(6)):
            case 0:
                angle = random.uniform(0, 2 * math.pi)
                end = (x + radius * math.cos(angle), y + radius * math.sin(angle))
                pen.line([(x, y), end], fill=ink, width=thick)
            case 1:
                pen.ellipse(box, outline=ink, width=thick)
            case 2:
                start = random.uniform(0, 360)
                pen.arc(box, start, start + random.uniform(40, 300), fill=ink, width=thick)
            case 3:
                points = [(x + radius * a, y + radius * b) for a, b in random.uniform(-0.5, 0.5, (5, 2)).tolist()]
                pen.line([*points, points[0]], fill=ink, width=thick, joint="curve")
            case 4:
                points = [(x + radius * a, y + radius * b) for a, b in random.uniform(-0.3, 0.3, (4, 2)).tolist()]
                pen.polygon(points, fill=ink, outline=paper)
            case _:
                step, angle = thick * random.uniform(2, 5), random.uniform(0, math.pi)
                dx, dy = math.cos(angle) * radius / 2, math.sin(angle) * radius / 2
                for i in range(int(random.integers(4, 20))):
                    at = (x - math.sin(angle) * step * i, y + math.cos(angle) * step * i)
                    pen.line([(at[0] - dx, at[1] - dy), (at[0] + dx, at[1] + dy)], fill=ink, width=thick)
    return _reduced(image, height, width)


def _reduced(image: Any, height: int, width: int) -> Rgb:
    from PIL import Image

    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def _screentone(random: Generator, height: int, width: int) -> Rgb:
    """Halftone dots or lines at any angle, with grey that runs across, as print and manga have it."""
    n = _SUPERSAMPLED
    ink, paper = _colours(random)
    y, x = np.mgrid[: height * n, : width * n].astype(np.float32) / n
    period, angle = random.uniform(3, 14), random.uniform(0, math.pi / 2)
    along = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period)
    across = (y * math.cos(angle) - x * math.sin(angle)) * (2 * math.pi / period)
    wave = np.sin(along) if random.random() < 0.25 else np.sin(along) * np.sin(across)
    grey = _ramp(random, x / width, y / height) * 0.8 + 0.1
    dots = (wave / 2 + 0.5 > grey)[..., None]
    share = dots.astype(np.float32).reshape(height, n, width, n, 1).mean((1, 3))
    return _levels(share * np.array(ink, np.float32) + (1 - share) * np.array(paper, np.float32))


def _ramp(random: Generator, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    """A field from 0 to 1 over places in [0, 1]: linear, round, or one value."""
    kind = int(random.integers(3))
    if kind == 0:
        angle = random.uniform(0, 2 * math.pi)
        field = x * math.cos(angle) + y * math.sin(angle)
    elif kind == 1:
        cx, cy = random.uniform(0, 1, 2)
        field = np.hypot(x - cx, y - cy)
    else:
        return np.full_like(x, random.uniform(0.2, 0.8))
    found: NDArray[np.float32] = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return found


def _levels(values: NDArray[np.float32]) -> Rgb:
    levels: Rgb = np.rint(values.clip(0, 255)).astype(np.uint8)
    return levels


def _ui(random: Generator, height: int, width: int) -> Rgb:
    """Windows, buttons, rules, icons and labels: what a screenshot holds."""
    from PIL import Image, ImageDraw

    n = 2
    dark = random.random() < 0.5
    paper = _colour([int(random.integers(*((16, 60) if dark else (225, 256))))] * 3)
    ink = WHITE if dark else BLACK
    accent = _any_colour(random)
    image = Image.new("RGB", (width * n, height * n), paper)
    pen = ImageDraw.Draw(image)
    labels: list[tuple[tuple[int, int], Colour, int]] = []
    for _ in range(max(6, height * width // 6000)):
        x, y = int(random.integers(width)), int(random.integers(height))
        w, h = int(random.integers(12, 120)), int(random.integers(8, 40))
        box = (x * n, y * n, (x + w) * n - 1, (y + h) * n - 1)
        fill = accent if random.random() < 0.3 else _colour([int(random.integers(256))] * 3)
        match int(random.integers(5)):
            case 0:
                pen.rounded_rectangle(box, int(random.integers(2, 9)) * n, fill=fill, outline=ink, width=n)
                labels.append(((x + 4, y + 2), WHITE if _luma(fill) < 128 else BLACK, h))
            case 1:
                pen.rectangle(box, outline=ink, width=n)
            case 2:
                pen.rectangle((0, y * n, width * n, y * n + n - 1), fill=fill)
            case 3:
                pen.ellipse((x * n, y * n, (x + h) * n, (y + h) * n), fill=fill, outline=ink, width=n)
            case _:
                pen.rectangle(box, fill=fill)
                labels.append(((x + 3, y + 1), WHITE if _luma(fill) < 128 else BLACK, h))
    flat = image.resize((width, height), Image.Resampling.BOX)
    pen = ImageDraw.Draw(flat)
    for place, colour, h in labels:
        pen.text(place, _words(random, 3), fill=colour, font=_any_font(random, int(np.clip(h * 0.7, 9, 22))))
    return np.asarray(flat)


def _flats(random: Generator, height: int, width: int) -> Rgb:
    """One saturated colour all over, or large areas of few, with sharp borders, and a checkerboard at times."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = _any_colour(random)
    which = random.random()
    if which < 0.2:
        return image
    if which < 0.35:
        cell = int(random.integers(1, 12))
        y, x = np.mgrid[:height, :width] // cell
        image[(y + x) % 2 == 1] = _any_colour(random)
        return image
    for _ in range(int(random.integers(1, 7))):
        top, left = int(random.integers(height)), int(random.integers(width))
        image[top : top + int(random.integers(8, height)), left : left + int(random.integers(8, width))] = _any_colour(
            random
        )
    return image


def _gradients(random: Generator, height: int, width: int) -> Rgb:
    """Colours that run into each other, dark ones and light ones, without noise."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x / width, y / height
    image = np.empty((height, width, 3), np.float32)
    image[:] = _any_colour(random)
    for _ in range(int(random.integers(1, 3))):
        share = _ramp(random, x, y)[..., None]
        image = share * np.array(_any_colour(random), np.float32) + (1 - share) * image
    return _levels(image)


_DRAWN: Mapping[Kind, Callable[[Generator, int, int], Rgb]] = {
    "text": _text,
    "line-art": _line_art,
    "screentone": _screentone,
    "ui": _ui,
    "flats": _flats,
    "gradients": _gradients,
}
