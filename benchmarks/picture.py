"""Draw results/coffee.png, a photo shrunk and enlarged again beside the original: python -m benchmarks.picture"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import wdsr_edge
from wdsr_edge.data.pairs import bicubic
from wdsr_edge.images.files import read_rgb
from wdsr_edge.images.samples import PHOTOS
from wdsr_edge.metrics import psnr

CROP = (slice(150, 310), slice(190, 390))
ZOOM = 2


def main() -> None:
    original = read_rgb(PHOTOS / "coffee.png")
    small = bicubic(original, 1 / 2)
    with wdsr_edge.load("wdsr-b-3x32-x2") as sr:
        pictures = {"bicubic": bicubic(small, 2), sr.config.name: sr(small), "original": original}
    panels = []
    for name, picture in pictures.items():
        crop = np.repeat(np.repeat(picture[CROP], ZOOM, 0), ZOOM, 1)
        panel = Image.new("RGB", (crop.shape[1], crop.shape[0] + 20), "white")
        panel.paste(Image.fromarray(crop), (0, 20))
        quality = psnr(picture, original, shave=2, luma=True)
        label = name if np.isinf(quality) else f"{name}: {quality:.2f} dB"
        ImageDraw.Draw(panel).text((4, 4), label, fill="black")
        panels.append(np.asarray(panel))
    target = Path(__file__).parent / "results" / "coffee.png"
    Image.fromarray(np.concatenate(panels, axis=1)).save(target, optimize=True)


if __name__ == "__main__":
    main()
