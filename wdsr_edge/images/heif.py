"""Bit depth and colours of an AVIF or HEIC file, read from its boxes, as its decoders do not pass them on.

ISO/IEC 23008-12 (HEIF), 14496-12 ("colr"), 14496-15 ("hvcC"), and AV1's own "av1C".
"""

from __future__ import annotations

from .png import Chunk

BOXES = 1 << 16
"""Number of a file's first bytes that are searched for them."""

_UNSPECIFIED, _BT709, _SRGB = 2, 1, 13


def is_deep(boxes: bytes) -> bool:
    """True if an image in a file that begins with ``boxes`` has more than 8 bits a channel."""
    for name, offset, mask in ((b"av1C", 6, 0x40), (b"hvcC", 21, 0x07)):
        start = boxes.find(name)
        if start >= 0 and start + offset < len(boxes) and boxes[start + offset] & mask:
            return True
    return False


def colour_of(boxes: bytes) -> tuple[Chunk, ...]:
    """Primaries and curve (ITU-T H.273) as PNG's cICP would have them; nothing for sRGB and what says nothing.

    A profile that the file has besides goes before this.
    """
    start = boxes.find(b"colrnclx")
    if start < 0 or start + 12 > len(boxes):
        return ()
    primaries, curve = (int.from_bytes(boxes[start + at : start + at + 2], "big") for at in (8, 10))
    primaries = _BT709 if primaries == _UNSPECIFIED else primaries
    curve = _SRGB if curve == _UNSPECIFIED else curve
    if (primaries, curve) == (_BT709, _SRGB) or max(primaries, curve) > 255:
        return ()
    return ((b"cICP", bytes([primaries, curve, 0, 1])),)  # of RGB in full range, which the decoder makes
