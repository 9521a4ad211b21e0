"""Frame sizes on the command line."""

from __future__ import annotations

import re

from .._errors import InputError

LARGEST = 8192


def parse_size(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT`` as (height, width)."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise InputError(f"{text!r} is not a frame size: expected WIDTHxHEIGHT in LR pixels, such as 480x270")
    width, height = int(match[1]), int(match[2])
    if max(width, height) > LARGEST:
        raise InputError(f"{text} is more than {LARGEST} pixels a side: time a smaller frame")
    return height, width
