"""Numbers of NumPy in a file of ``torch.save``: a best PSNR, a history, the state of a random generator.

NumPy's own functions that rebuild them are not for files of strangers: a dtype may claim to hold objects where there
are bytes. These stand in for them while a file is read, and make nothing but plain numbers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_NUMBERS = frozenset({"b1", *(f"i{n}" for n in (1, 2, 4, 8)), *(f"u{n}" for n in (1, 2, 4, 8)), "f2", "f4", "f8"})
_LOCK = threading.Lock()  # what torch allows is one list for all threads


class Dtype:
    """In place of ``numpy.dtype``: a kind of number, or one that is passed over (text, objects, records)."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.dtype = np.dtype(code) if isinstance(code, str) and code in _NUMBERS else None

    def __setstate__(self, state: object) -> None:
        """Only the order of bytes is taken from it."""
        if self.dtype is not None and isinstance(state, tuple) and state[1:2] == (">",):
            self.dtype = self.dtype.newbyteorder(">")


class Array:
    """In place of ``numpy.ndarray``."""

    values: NDArray[Any] | None = None
    """None for what is no array of numbers."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[object, tuple[int, ...], Dtype, bool, bytes]) -> None:
        _, shape, kind, by_column, data = state
        if not isinstance(kind, Dtype) or kind.dtype is None or not isinstance(data, bytes):
            return
        if len(shape) > 32 or min(shape, default=0) < 0 or math.prod(shape) * kind.dtype.itemsize != len(data):
            raise ValueError("an array of another size than its data")
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if by_column else "C")


def _array(*_: object) -> Array:
    """In place of ``numpy._core.multiarray._reconstruct``, which makes an empty array to be filled."""
    return Array()


def _scalar(kind: Dtype, data: object = b"") -> bool | int | float | None:
    """In place of ``numpy._core.multiarray.scalar``; None for what is not a number."""
    if not isinstance(kind, Dtype) or kind.dtype is None or not isinstance(data, bytes):
        return None
    if len(data) != kind.dtype.itemsize:
        raise ValueError("a number of another size than its data")
    found: bool | int | float = np.frombuffer(data, kind.dtype)[0].item()
    return found


def _empty(*_: object) -> dict[Any, Any]:
    """In place of ``collections.defaultdict``, whatever it makes of missing keys."""
    return {}


def _nothing(*_: object) -> None:
    """In place of a type that is named and not used, such as what a ``defaultdict`` is made of."""


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (Dtype, "numpy.dtype"),
    (Array, "numpy.ndarray"),
    *((_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (_empty, "collections.defaultdict"),
    *((_nothing, f"builtins.{name}") for name in ("int", "float", "bool", "str", "list", "dict", "tuple")),
    *((_nothing, f"numpy.{name}") for name in ("bool", "bool_", "int32", "int64", "float16", "float32", "float64")),
]


@contextmanager
def numbers_allowed() -> Iterator[None]:
    """While this lasts, ``torch.load(weights_only=True)`` reads numbers of NumPy as well, as plain ones."""
    with _LOCK, torch.serialization.safe_globals(_STAND_INS):
        yield
