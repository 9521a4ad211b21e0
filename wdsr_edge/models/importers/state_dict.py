"""PyTorch state dicts, in PyTorch's own files or in safetensors; nothing is ever unpickled."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..._errors import CheckpointError
from ..checkpoint import CONFIG_KEY
from .arrays import numbers_allowed
from .candidates import StateDict, candidates, passed_over, unnamed_averages
from .convolutions import LARGEST, Convolution, Part, Role, assemble, printable
from .matching import Match
from .order import match_in_order

_ROLES: Mapping[str, Role] = {
    "weight": "kernel",
    "bias": "bias",
    "weight_g": "g",
    "weight_v": "v",
    "parametrizations.weight.original0": "g",
    "parametrizations.weight.original1": "v",
}


class Found(NamedTuple):
    """A network in a file of state dicts."""

    match: Match
    left_out: list[str]
    """Tensors that are not weights."""
    notes: list[str]
    """Where it was found, one line each; none if the file holds nothing else."""


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
            with numbers_allowed():
                loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle provokes
        raise CheckpointError(_why_not_loaded(str(error))) from error
    return _find(loaded)


def read_safetensors(path: Path) -> Found:
    """The network in a safetensors file; its tensors stand in the order of their names there.

    Raises CheckpointError for a file that is damaged, is a checkpoint of ours, or does not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            if CONFIG_KEY in (file.metadata() or {}):
                raise CheckpointError("a wdsr-edge checkpoint already: there is nothing to import, use it as it is")
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError, AttributeError, RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(f"damaged, or no safetensors file ({_first_line(str(error))})") from error
    return _find(tensors)


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


def _find(loaded: object) -> Found:
    among = candidates(loaded)
    errors: list[tuple[int, CheckpointError]] = []
    for state in among:
        try:
            found, left_out = _read(state.tensors)
        except CheckpointError as error:
            errors.append((len(state.shapes), error))
        else:
            return Found(found, left_out, _notes(loaded, state, among))
    if not errors:
        raise CheckpointError("it holds no state dict, that is, no mapping of names to tensors")
    raise max(errors, key=lambda one: one[0])[1]


def _notes(loaded: object, taken: StateDict, among: Sequence[StateDict]) -> list[str]:
    """Which weights were taken, if there was a choice."""
    others = [printable(place) for place in passed_over(taken, among)]
    instead = f", not those under {' or '.join(others[:4])}" if others else ""
    notes = [f"took the weights under {printable(taken.place or 'the top')}{instead}"] if taken.place or others else []
    unnamed = unnamed_averages(loaded) if taken.rank else ""
    return [*notes, f"averaged weights under {unnamed} have no names, and were not taken"] if unnamed else notes


def _read(tensors: dict[str, Tensor]) -> tuple[Match, list[str]]:
    parts = []
    for name in tensors:
        suffix = next((suffix for suffix in _ROLES if f".{name}".endswith(f".{suffix}")), "")
        layer = name[: len(name) - len(suffix)].rstrip(".")
        parts.append(Part(layer, _ROLES[suffix] if suffix else "other", name, tensors[name]))
    convs, left_out = assemble(parts)
    shifts = [conv for conv in convs if _is_mean_shift(conv)]
    left_out += [conv.name for conv in shifts]
    names = list(tensors)
    found = match_in_order([conv for conv in convs if conv not in shifts], ordered=names != sorted(names))
    return found, left_out


def _is_mean_shift(conv: Convolution) -> bool:
    """EDSR-PyTorch keeps its normalisation, which is none of the network's, as 1x1 convolutions of each colour."""
    return conv.shape == (3, 3, 1) and torch.equal(conv.plain.view(3, 3), conv.plain.view(3, 3).diagonal().diag())
