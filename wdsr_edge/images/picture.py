"""A picture as image files have it: pixels, and all that goes along when it is enlarged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from .metadata import Metadata
from .png import Chunk


@dataclass(frozen=True, eq=False)
class Picture:
    """An image the right way up. Change its pixels with ``dataclasses.replace``."""

    pixels: NDArray[Any]
    """uint8 or uint16, [H, W] grey, [H, W, 3] RGB or [H, W, 4] RGBA with straight alpha."""
    icc: bytes | None = None
    """Colour profile of the pixels; None means what ``colour`` says, or else sRGB."""
    exif: bytes | None = None
    """EXIF block ("Exif\\0\\0II*\\0...") without orientation, thumbnail, size and resolution."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical resolution in pixels per inch, above 1, at most 65535."""
    grey: bool = False
    """RGBA pixels that stand for grey with alpha, and are written as that."""
    lossless: bool = False
    """From a format with both modes (WebP), in the lossless one."""
    colour: tuple[Chunk, ...] = ()
    """Colour chunks of a PNG besides a profile: gAMA, cHRM, cICP and others, see ``png.COLOUR``."""
    metadata: Metadata = field(default_factory=Metadata)
    """XMP, IPTC, comments and PNG's texts."""
