"""PyTorch state dicts, in PyTorch's own files or in safetensors; nothing is ever unpickled."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..._errors import CheckpointError
from ..checkpoint import CONFIG_KEY
from .convolutions import LARGEST, Convolution, Part, Role, assemble, printable
from .matching import Match, match

_ROLES: Mapping[str, Role] = {
    "weight": "kernel",
    "bias": "bias",
    "weight_g": "g",
    "weight_v": "v",
    "parametrizations.weight.original0": "g",
    "parametrizations.weight.original1": "v",
}
_DEEPEST = 8
_LONGEST_NAME = 1000


class Found(NamedTuple):
    """A network in a file of state dicts."""

    match: Match
    place: str
    """Key of its state dict in the file; empty if the file is nothing else."""
    left_out: list[str]
    """Tensors that are no weights."""


def read_torch(file: BinaryIO) -> Found:
    """The network in a file that ``torch.save`` wrote, in its zip or its older format.

    Raises CheckpointError for a file that is damaged, holds objects, or no state dict that fits.
    """
    if file.read(2) == b"PK":
        _check_zip(file)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle provokes
        raise CheckpointError(_why_not_loaded(str(error))) from error
    return _find(_state_dicts(loaded))


def read_safetensors(path: Path) -> Found:
    """The network in a safetensors file; its tensors stand in the order of their names there.

    Raises CheckpointError for a file that is damaged, is a checkpoint of ours, or does not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            if CONFIG_KEY in (file.metadata() or {}):
                raise CheckpointError("a wdsr-edge checkpoint already: there is nothing to import, use it as it is")
            names = sorted(file.keys(), key=_by_numbers)
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, AttributeError, RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(f"damaged, or no safetensors file ({_first_line(str(error))})") from error
    return _find([("", tensors)])


def _check_zip(file: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile raises many kinds on damage
        raise CheckpointError(f"a damaged zip file, perhaps cut short ({_first_line(str(error))})") from error
    if sum(entry.file_size for entry in entries) > LARGEST:
        raise CheckpointError(f"it unpacks to more than {LARGEST >> 30} GiB: no super-resolution network")
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise CheckpointError("a zip file, but not PyTorch's (if it is Keras' .keras, unzip model.weights.h5 from it)")


def _why_not_loaded(text: str) -> str:
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it holds objects ({printable(found[1])}), which are not unpickled: save model.state_dict() alone"
    if "TorchScript" in text:
        return "a TorchScript archive, which is not run: save model.state_dict() alone"
    return f"damaged, or no file of torch.save ({_first_line(text.rpartition('WeightsUnpickler error:')[2])})"


def _first_line(text: str) -> str:
    return printable(text.strip().partition("\n")[0])


StateDict = tuple[str, dict[str, Tensor]]


def _state_dicts(loaded: object) -> list[StateDict]:
    """Every mapping of names to tensors in ``loaded``, outermost first, averaged weights before all others."""
    found: list[StateDict] = []
    seen: set[int] = set()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), loaded)])
    while waiting:
        place, mapping = waiting.popleft()
        if not isinstance(mapping, dict) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        items = {key: value for key, value in mapping.items() if isinstance(key, str)}
        tensors = {key: value for key, value in items.items() if isinstance(value, Tensor)}
        if tensors:
            found.append((".".join(place), tensors))
        if len(place) < _DEEPEST:
            waiting.extend(((*place, key[:100]), value) for key, value in items.items() if isinstance(value, dict))
    found = [part for whole in found for part in (whole, *_by_prefix(*whole))]
    return sorted(found, key=lambda one: not re.search(r"(^|[._-])ema($|[._-])", one[0]))


def _by_prefix(place: str, tensors: dict[str, Tensor]) -> Iterator[StateDict]:
    """The networks of a state dict that holds several side by side, such as ``generator.`` and ``loss.``."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(name.partition(".")[0], {})[name] = tensor
    if len(parts) > 1:
        yield from ((f"{place}.{prefix[:100]}".lstrip("."), part) for prefix, part in parts.items())


def _find(state_dicts: Iterable[StateDict]) -> Found:
    errors: list[tuple[int, CheckpointError]] = []
    for place, tensors in state_dicts:
        try:
            return _read(place, tensors)
        except CheckpointError as error:
            errors.append((sum(tensor.dim() == 4 for tensor in tensors.values()), error))
    if not errors:
        raise CheckpointError("it holds no state dict, that is, no mapping of names to tensors")
    raise max(errors, key=lambda one: one[0])[1]


def _read(place: str, tensors: dict[str, Tensor]) -> Found:
    parts = []
    for name in _module_order(tensors):
        suffix = next((suffix for suffix in _ROLES if f".{name}".endswith(f".{suffix}")), "")
        layer = name[: len(name) - len(suffix)].rstrip(".")
        parts.append(Part(layer, _ROLES[suffix] if suffix else "other", name, tensors[name]))
    convs, left_out = assemble(parts)
    shifts = [conv for conv in convs if _is_mean_shift(conv)]
    left_out += [conv.name for conv in shifts]
    return Found(match([conv for conv in convs if conv not in shifts]), place, left_out)


def _is_mean_shift(conv: Convolution) -> bool:
    """EDSR-PyTorch keeps its normalisation, which is none of the network's, as 1x1 convolutions of each colour."""
    return conv.shape == (3, 3, 1) and torch.equal(conv.plain.view(3, 3), conv.plain.view(3, 3).diagonal().diag())


def _module_order(names: Iterable[str]) -> list[str]:
    """Names in the order of the file, but what only a number tells apart by that: files may be sorted as text."""
    ranks: dict[str, int] = {}

    def key(name: str) -> list[tuple[int, int]]:
        if len(name) > _LONGEST_NAME:
            raise CheckpointError(f"it has a tensor name of {len(name)} letters ({printable(name)})")
        places, end = [], 0
        for part in name.split("."):
            end += len(part) + 1
            rank = ranks.setdefault(name[:end], len(ranks))
            places.append((0, int(part)) if part.isdecimal() else (1, rank))
        return places

    return [name for _, name in sorted([(key(name), name) for name in names], key=lambda pair: pair[0])]


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """Sorts ``block2`` before ``block10``."""
    if len(name) > _LONGEST_NAME:
        raise CheckpointError(f"it has a tensor name of {len(name)} letters ({printable(name)})")
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]
