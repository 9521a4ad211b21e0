"""Where in a file its network may lie: mappings of names to tensors, averaged weights before those they come from."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arrays import Array
from .convolutions import printable

_DEEPEST = 8
_LEAST_KERNELS = 5
"""Those of a WDSR-A of one block; an EDSR has one more."""

_AVERAGED = frozenset(
    {"ema", "swa", "avg", "average", "averaged", "averages", "shadow", "polyak", "ewma"}
    | {"emamodel", "modelema", "emanet", "netema", "gema", "swamodel", "modelswa", "paramsema", "averagedmodel"}
)
"""Words for averaged weights: of BasicSR, timm, torch.optim.swa_utils, torch_ema, Lightning and others."""
_OPTIMISER = frozenset({"exp", "optim", "optimizer", "optimizers", "optimiser", "grad", "grads", "momentum"})
"""Words for what has the shapes of weights and is none, Adam's ``exp_avg`` for one."""


class StateDict(NamedTuple):
    """Tensors by name, in the order of the file."""

    place: str
    """Its key in the file; empty if it is the whole file."""
    tensors: dict[str, Tensor]

    @property
    def rank(self) -> int:
        """0 for averaged weights, 2 for what belongs to an optimiser, 1 for all else."""
        words = set(_words(self.place))
        return 2 if words & _OPTIMISER else 0 if words & _AVERAGED else 1

    @property
    def shapes(self) -> list[torch.Size]:
        """Of its kernels, sorted."""
        return sorted(tensor.shape for tensor in self.tensors.values() if tensor.dim() == 4 and not tensor.is_nested)


def _words(place: str) -> list[str]:
    """``params_ema`` and ``paramsEMA`` are params and ema."""
    return [word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", place)]


def candidates(loaded: object) -> list[StateDict]:
    """Every mapping of names to tensors in ``loaded``, the likeliest first: averaged weights, then the outermost."""
    found: list[StateDict] = []
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), loaded)])
    while waiting:
        place, mapping = waiting.popleft()
        if not isinstance(mapping, dict) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        items = {key: value for key, value in mapping.items() if isinstance(key, str)}
        tensors = {key: value for key, value in items.items() if isinstance(value, Tensor)} or _of_arrays(items)
        if tensors:
            whole = StateDict(".".join(place), tensors)
            found += [whole, *_by_prefix(whole)]
        if len(place) < _DEEPEST:
            waiting.extend(((*place, key[:100]), value) for key, value in items.items() if isinstance(value, dict))
    return sorted(found, key=lambda one: one.rank)


def _of_arrays(items: dict[str, Any]) -> dict[str, Tensor]:
    """A state dict that was saved as arrays of NumPy."""
    arrays = {name: value.values for name, value in items.items() if isinstance(value, Array)}
    kept = {name: array for name, array in arrays.items() if array is not None and array.dtype.kind == "f"}
    return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in kept.items()}


def _by_prefix(whole: StateDict) -> Iterator[StateDict]:
    """The networks of a state dict that holds several side by side, such as ``generator.`` and ``module.ema_model.``.

    Every prefix of names that leads to enough kernels for a network and not to all of them, the shortest first.
    """
    kernels = {name for name, tensor in whole.tensors.items() if tensor.dim() == 4}
    waiting = deque([("", list(whole.tensors))])
    while waiting:
        prefix, names = waiting.popleft()
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(name[: name.find(".", len(prefix)) + 1], []).append(name)
        for longer, inside in parts.items():
            if not longer or longer.count(".") > _DEEPEST or len(kernels.intersection(inside)) < _LEAST_KERNELS:
                continue
            waiting.append((longer, inside))
            if len(inside) < len(names) or len(names) < len(whole.tensors):
                place = f"{whole.place}.{longer[:-1][:100]}".strip(".")
                yield StateDict(place, {name: whole.tensors[name] for name in inside})


def passed_over(taken: StateDict, among: Sequence[StateDict]) -> list[str]:
    """Places with other weights of the same shapes as what was ``taken``, for a note; not those of an optimiser."""
    mine, shapes = {id(tensor) for tensor in taken.tensors.values()}, taken.shapes
    return [
        one.place or "the top"
        for one in among
        if one.rank < 2 and one.shapes == shapes and mine.isdisjoint(map(id, one.tensors.values()))
    ]


def unnamed_averages(loaded: object) -> str:
    """Where averaged weights are kept as a list without names, which cannot be taken; empty if nowhere."""
    seen: set[int] = set()
    lists: list[str] = []
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), loaded)])
    while waiting:
        place, value = waiting.popleft()
        if isinstance(value, dict) and len(place) < _DEEPEST and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(((*place, key[:100]), item) for key, item in value.items() if isinstance(key, str))
        elif isinstance(value, list) and any(isinstance(item, Tensor) and item.dim() == 4 for item in value):
            lists.append(".".join(place))
    return next((printable(place) for place in lists if StateDict(place, {}).rank == 0), "")
