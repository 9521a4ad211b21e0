"""``import_weights``: another project's weights as a network of ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import CheckpointError
from ..._files import open_regular
from ...config import ModelConfig, upsampler_factors
from ..build import build
from ..edsr import EDSR
from ..wdsr import WDSR
from .conventions import KERAS, Convention, Origin, origin_of
from .convolutions import LARGEST, Convolution, printable
from .keras import read_keras
from .matching import Match
from .order import match_in_order
from .state_dict import read_safetensors, read_torch


@dataclass(frozen=True)
class Imported:
    """A network, and what is known of the file that it comes from."""

    model: EDSR | WDSR
    """In eval mode on the CPU; trainable."""
    origin: str
    """The project whose layout the file has."""
    given: frozenset[str]
    """Which of mean, std and res_scale the caller gave; the others are what the origin uses."""
    notes: tuple[str, ...]
    """Notes, one line each."""


def import_weights(
    path: str | os.PathLike[str],
    *,
    mean: Sequence[float] | None = None,
    std: float | None = None,
    res_scale: float | None = None,
) -> EDSR | WDSR:
    """Weights of another project as a network of ours, in eval mode on the CPU, ready to train, save or deploy.

    Reads the Keras HDF5 weights of krasserm/super-resolution, and PyTorch or safetensors state dicts of WDSR (such as
    JiahuiYu/wdsr_ntire2018 and ychfan/wdsr) and EDSR. The kind of file is told by its content, the network by the
    shapes of its tensors. Weight norm is kept if every convolution has it, else folded.

    ``mean``, ``std`` (of RGB in [0, 1]) and ``res_scale`` (factor of each block) are not in such files: None takes what
    the origin is known to use. Raises CheckpointError for a file that is missing, damaged or does not fit, InputError
    for numbers out of range, MissingExtraError without h5py for HDF5. Nothing is ever unpickled.
    """
    return import_model(path, mean=mean, std=std, res_scale=res_scale).model


def import_model(
    path: str | os.PathLike[str],
    *,
    mean: Sequence[float] | None = None,
    std: float | None = None,
    res_scale: float | None = None,
) -> Imported:
    """``import_weights``, with what was found out about the file."""
    numbers: dict[str, Any] = {"mean": mean, "std": std, "res_scale": res_scale}
    given = {name: value for name, value in numbers.items() if value is not None}
    replace(ModelConfig("wdsr-a", 1, 1, 2), **given)  # refuses numbers out of range before any work
    try:
        origin, found, notes = _read(Path(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    config = replace(found.config, **{**origin.convention._asdict(), **given})
    model = _network(config, found.convs, tensorflow=origin is KERAS)
    return Imported(model, origin.name, frozenset(given), tuple(notes))


def renormalised(model: EDSR | WDSR, convention: Convention) -> EDSR | WDSR:
    """A copy of ``model`` that is fed by another convention, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        copy = build(replace(model.config, mean=convention.mean, std=convention.std))
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def _read(path: Path) -> tuple[Origin, Match, list[str]]:
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
            if size > LARGEST:
                raise CheckpointError(f"more than {LARGEST >> 30} GiB: no super-resolution network is that large")
            file.seek(0)
            start = file.read(9)
            file.seek(0)
            if start.startswith(b"\x89HDF\r\n\x1a\n"):
                convs, left_out = read_keras(path)
                layers = [conv.layer.rstrip("/") for conv in convs]
                found = match_in_order(convs, ordered=layers != sorted(layers))
                return KERAS, found, _notes(found, left_out)
            if start.endswith(b"{") and int.from_bytes(start[:8], "little") <= size - 8:
                state = read_safetensors(path)
            elif start.startswith((b"PK", b"\x80")):
                state = read_torch(file)
            else:
                raise CheckpointError("neither a file of torch.save nor safetensors nor Keras HDF5 weights")
    except FileNotFoundError as error:
        raise CheckpointError("no such file") from error
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})") from error
    return origin_of(state.match), state.match, state.notes + _notes(state.match, state.left_out)


def _notes(found: Match, left_out: Sequence[str]) -> list[str]:
    bare = [conv.name for conv in found.convs if conv.bias is None]
    normed = [conv.name for conv in found.convs if conv.g is not None]
    notes = []
    if left_out:
        notes.append(f"left out, as no weights: {_listed(left_out)}")
    if bare:
        notes.append(f"without a bias in the file, so zero: {_listed(bare)}")
    if normed and found.config.norm == "none":
        notes.append(f"weight norm folded, as not every convolution has it: {_listed(normed)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


@torch.no_grad()
def _network(config: ModelConfig, convs: Sequence[Convolution], *, tensorflow: bool) -> EDSR | WDSR:
    with torch.random.fork_rng(devices=[]):
        model = build(config)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for shape, layer, conv in zip(config.convs, layers, convs, strict=True):
        order = _tensorflow_order(config, shape.name, shape.outputs) if tensorflow else torch.arange(shape.outputs)
        if config.norm == "weight":
            assert conv.g is not None
            g, v = layer.parametrizations["weight"].parameters()  # type: ignore[index, union-attr]
            g.copy_(conv.g[order].view(-1, 1, 1, 1))
            v.copy_(conv.kernel[order])
        else:
            layer.weight.copy_(conv.plain[order])
        assert layer.bias is not None
        layer.bias.copy_(torch.zeros(shape.outputs) if conv.bias is None else conv.bias[order])
    return model.eval()


def _tensorflow_order(config: ModelConfig, name: str, outputs: int) -> Tensor:
    """The file's channel for each of ours: TensorFlow's depth_to_space has the place outside and the colour inside."""
    factor = 1
    if name.startswith("upsampler."):
        factor = upsampler_factors(config.scale)[int(name.rpartition(".")[2])]
    elif config.arch != "edsr" and name in ("tail", "skip"):
        factor = config.scale
    return torch.arange(outputs).view(factor**2, -1).T.reshape(-1)
