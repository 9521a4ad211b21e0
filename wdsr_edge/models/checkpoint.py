"""Checkpoints: safetensors with the config as JSON in its metadata. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .._errors import CheckpointError, InputError
from .._files import check_regular, replacing
from ..config import ModelConfig
from .build import build
from .edsr import EDSR
from .wdsr import WDSR

CONFIG_KEY = "wdsr_edge.config"


def save_checkpoint(
    model: EDSR | WDSR, path: str | os.PathLike[str], metadata: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write ``model`` with its config and ``metadata`` to ``path`` (``.safetensors``), replacing it when complete.

    Raises CheckpointError for weights that ``load_checkpoint`` would refuse, InputError if the disk does.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and (tensor.dtype != torch.float32 or not tensor.isfinite().all()):
            raise CheckpointError(f"cannot save {path}: tensor {name} is not finite float32")
    data = save(tensors, {**metadata, CONFIG_KEY: json.dumps(model.config.to_dict(), sort_keys=True)})
    with replacing(path) as fresh:
        fresh.write_bytes(_in_order(data))


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata sorted, which safetensors writes in any order."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def load_checkpoint(path: str | os.PathLike[str]) -> EDSR | WDSR:
    """The network that ``save_checkpoint`` wrote, in eval mode on the CPU.

    Raises CheckpointError for a file that is missing, no safetensors, without a config, or that does not fit it.
    """
    config, tensors = read_checkpoint(path)
    stored = sum(tensor.numel() for tensor in tensors.values())
    if stored < config.parameters:
        raise CheckpointError(f"{path}: {config.name} has {config.parameters} parameters, the file holds {stored}")
    with torch.random.fork_rng(devices=[]):
        model = build(config)
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise CheckpointError(f"{path}: tensor {name} is {'missing' if name in expected else 'unexpected'}")
        if tensors[name].shape != expected[name].shape or tensors[name].dtype != expected[name].dtype:
            raise CheckpointError(
                f"{path}: tensor {name} is {_describe(tensors[name])}, {config.name} needs {_describe(expected[name])}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{path}: tensor {name} is not finite; use an older checkpoint")
    model.load_state_dict(tensors)
    return model.eval()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a checkpoint."""
    return _read(path)[0]


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and tensors of a checkpoint, not yet checked against each other."""
    metadata, tensors = _read(path)
    if CONFIG_KEY not in metadata:
        raise CheckpointError(f"{path}: no {CONFIG_KEY} in its metadata, so not a wdsr-edge checkpoint")
    try:
        config = ModelConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (InputError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: bad config in its metadata ({error})") from error
    return config, tensors


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        check_regular(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        why = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: {why}") from error
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
