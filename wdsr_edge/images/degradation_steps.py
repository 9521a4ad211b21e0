"""The steps that a degradation is made of: what lens, sensor, processor and codec each do to a picture.

All take and give uint8 HWC RGB. Those of a lens work on the ground truth, in its pixels; a resize makes the LR picture
of it; all others work on that.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .._errors import require
from .files import Rgb
from .resampler import cubic, resize_bicubic

Kernel = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Weight at an offset in pixels, down and to the right; need not sum to 1."""

LEAST_REACH = 8
"""Pixels on each side that a kernel has at least: 16 taps between pixels, 17 on them."""


def gaussian(across: float, along: float, degrees: float = 0.0) -> tuple[Kernel, float]:
    """A Gaussian with a standard deviation for each of two axes, pixels, turned; and how far it reaches."""
    angle = math.radians(degrees)

    def weight(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        return np.exp(-((u / max(along, 1e-3)) ** 2 + (v / max(across, 1e-3)) ** 2) / 2)

    return weight, 4 * max(across, along)


def disc(radius: float) -> tuple[Kernel, float]:
    """A lens out of focus: an even disc of so many pixels, its rim softened over one; and how far it reaches."""
    return lambda y, x: np.clip(radius + 0.5 - np.hypot(y, x), 0.0, 1.0), radius + 1


def _keys(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The resampler's cubic kernel of both axes, not stretched."""
    return cubic(y) * cubic(x)


def blurred(image: Rgb, kernel: Kernel, reach: float, *, between: bool = False) -> Rgb:
    """``image`` seen through ``kernel``, its borders mirrored; ``between`` gives it half a pixel further each way."""
    r = max(LEAST_REACH, math.ceil(reach))
    offsets = np.arange(-r, r + 1, dtype=np.float64) - (0.5 if between else 0.0)
    weights = kernel(*np.meshgrid(offsets, offsets, indexing="ij"))
    if between:
        weights[0], weights[:, 0] = 0, 0  # as many taps on each side
    height, width = image.shape[:2]
    more = [-(side + 2 * r) % 16 for side in (height, width)]  # transforms of other lengths take several times as long
    padded = np.pad(image, ((r, r + more[0]), (r, r + more[1]), (0, 0)), mode="symmetric")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded.astype(np.float32), axes=(0, 1))
    spectrum *= np.fft.rfft2((weights[::-1, ::-1] / weights.sum()).astype(np.float32), size)[..., None]
    whole = np.fft.irfft2(spectrum, size, (0, 1))
    return _levels(whole[2 * r : 2 * r + height, 2 * r : 2 * r + width])


def at_centres(image: Rgb, scale: int, kernel: Kernel, reach: float) -> Rgb:
    """``image`` seen through ``kernel`` at the middle of each LR pixel alone, which lies between pixels if even."""
    seen = blurred(image, kernel, reach, between=scale % 2 == 0)
    first = (scale - 1) // 2
    return np.ascontiguousarray(seen[first::scale, first::scale])


def decimated(image: Rgb, scale: int) -> Rgb:
    """The pixel in the middle of each ``scale`` by ``scale``, or the mean of the four there."""
    first = (scale - 1) // 2
    size = 2 - scale % 2
    parts = [image[first + y :: scale, first + x :: scale] for y in range(size) for x in range(size)]
    return _levels(np.mean(parts, axis=0))


def area(image: Rgb, scale: int) -> Rgb:
    """The mean of each ``scale`` by ``scale``: what binning and most cameras' scalers give."""
    height, width = (side // scale for side in image.shape[:2])
    return _levels(image.reshape(height, scale, width, scale, 3).mean((1, 3)))


def _by_pillow(name: str) -> Callable[[Rgb, int], Rgb]:
    def resized(image: Rgb, scale: int) -> Rgb:
        from PIL import Image

        size = image.shape[1] // scale, image.shape[0] // scale
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling[name]))

    return resized


RESIZES: dict[str, Callable[[Rgb, int], Rgb]] = {
    "bicubic": lambda image, scale: resize_bicubic(image, 1 / scale),
    "cubic": lambda image, scale: at_centres(image, scale, _keys, 2),
    "area": area,
    "bilinear": _by_pillow("BILINEAR"),
    "lanczos": _by_pillow("LANCZOS"),
    "decimation": decimated,
}
"""Ways from the ground truth to a picture of 1/scale: MATLAB's antialiased bicubic, and what else is met."""


def sharpened(image: Rgb, amount: float, sigma: float) -> Rgb:
    """Unsharp mask, as camera processors do it, with halos on both sides of each edge; ``amount`` 1 adds all of it."""
    from PIL import Image, ImageFilter

    mask = ImageFilter.UnsharpMask(radius=sigma, percent=round(100 * amount), threshold=0)
    return np.asarray(Image.fromarray(image).filter(mask))


def noisy(image: Rgb, sigma: float, random: Generator) -> Rgb:
    """Normal noise, independent for each pixel and channel, ``sigma`` levels."""
    return _levels(image + sigma * random.standard_normal(image.shape))


def sensed(image: Rgb, read: float, shot: float, grey: float, random: Generator) -> Rgb:
    """A sensor's noise: its variance is read² + shot * level, and ``grey`` is how alike the channels' noise is, 0 to 1.

    Poisson-Gaussian: Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting for single-image
    raw-data".
    """
    own, common = random.standard_normal(image.shape), random.standard_normal((*image.shape[:2], 1))
    return _levels(image + _deviation(image, read, shot) * (math.sqrt(1 - grey**2) * own + grey * common))


def demosaicked(image: Rgb, read: float, shot: float, random: Generator) -> Rgb:
    """The same of a Bayer sensor (RGGB): each pixel has the noise of one colour, the others are interpolated."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width] % 2
    masks = np.stack([(y == 0) & (x == 0), y != x, (y == 1) & (x == 1)], axis=2)
    noise = masks * _deviation(image, read, shot) * random.standard_normal((height, width, 1))
    padded = np.pad(noise, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    cross = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    corners = padded[:-2, :-2] + padded[:-2, 2:] + padded[2:, :-2] + padded[2:, 2:]
    full = noise + cross * np.array([0.5, 0.25, 0.5]) + corners * np.array([0.25, 0.0, 0.25])
    return _levels(image + full)


def _deviation(image: Rgb, read: float, shot: float) -> NDArray[np.float64]:
    return np.sqrt(read**2 + shot * image.astype(np.float64))


def subsampled(image: Rgb) -> Rgb:
    """Colour at half the size and back, as 4:2:0 has it; brightness as it is."""
    from PIL import Image

    whole = Image.fromarray(image)
    luma, *colours = whole.convert("YCbCr").split()
    half = (whole.width + 1) // 2, (whole.height + 1) // 2
    back = (one.resize(half, Image.Resampling.BOX).resize(whole.size, Image.Resampling.BILINEAR) for one in colours)
    return np.asarray(Image.merge("YCbCr", (luma, *back)).convert("RGB"))


def jpeg(image: Rgb, quality: int) -> Rgb:
    """Through Pillow's JPEG at ``quality``, 4:2:0."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, "jpeg", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(data).convert("RGB"))


VIDEO_FRAMES = 6
"""Frames of a clip: one intra and five predicted, the last of which is taken."""

_CODECS = {"h264": ("libx264", "veryfast", {}), "h265": ("libx265", "ultrafast", {"x265-params": "log-level=none"})}
"""The encoder of each codec, its preset, and more options."""
_LEAST_FILMED = 40
"""Pixels a side: x265 takes none below 32, and gives other bits each time for one block of 32 by 32."""


def filmed(frames: Sequence[Rgb], codec: str, crf: int) -> Rgb:
    """The last of ``frames`` (each uint8 [H, W, 3], of one size) after all went through a video encoder at ``crf``.

    Needs the extra ``video``. 4:2:0; odd sizes are extended by a pixel and cut again.
    """
    av: Any = require("av", "video")
    encoder, preset, more = _CODECS[codec]
    height, width = frames[0].shape[:2]
    coder = av.CodecContext.create(encoder, "w")
    coder.height, coder.width = (max(_LEAST_FILMED, side + side % 2) for side in (height, width))
    coder.pix_fmt, coder.framerate, coder.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
    coder.thread_count = 1
    coder.options = {"preset": preset, "tune": "zerolatency", "crf": str(crf), **more}
    packets = []
    there, back = av.video.reformatter.VideoReformatter(), av.video.reformatter.VideoReformatter()
    # threads=1: starting swscale's threads takes 8 ms for each frame, converting a small one 0.07
    for count, image in enumerate(frames):
        missing = (0, coder.height - height), (0, coder.width - width), (0, 0)
        frame = av.VideoFrame.from_ndarray(np.pad(image, missing, mode="edge"), format="rgb24")
        frame = there.reformat(frame, format="yuv420p", threads=1)
        frame.pts = count
        packets += coder.encode(frame)
    packets += coder.encode(None)
    decoder = av.CodecContext.create({"h264": "h264", "h265": "hevc"}[codec], "r")
    decoder.thread_count = 1
    decoded = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    last = back.reformat(decoded[-1], format="rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(last[:height, :width])


def _levels(values: NDArray[np.floating[Any]]) -> Rgb:
    levels: Rgb = np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    return levels
