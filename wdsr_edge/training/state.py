"""The state of a run on disk: all that is needed to go on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from .._errors import CheckpointError, InputError
from .._files import open_regular, replacing
from ..config import ModelConfig
from ..data.pairs import Pair
from ..images.degradation import Recipe
from .recipe import Amp, TrainConfig

Identity = Mapping[str, Any]


class Stateful(Protocol):
    """A model, an optimiser or a gradient scaler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Steps done."""
    loss: float = float("nan")
    """Mean loss since the last report, times 255: for L1, levels."""
    learning_rate: float = 0.0
    """Of the last step."""
    psnr_y: float = float("nan")
    """Validation PSNR on luma of the (averaged) model in dB; NaN if it was not validated at this step."""
    best: float = 0.0
    """The best of those so far."""
    seconds: float = 0.0
    """Wall time so far, over all resumed parts."""


_LOG = logging.getLogger("wdsr_edge")

_FREE = ("save_every", "validate_every", "workers", "compile")
"""Options that a run may change when it goes on: they change no weight."""


_HASHED = ("images", "validation images", "model", "start", "teacher", "degradations")


def identity(
    config: ModelConfig,
    recipe: TrainConfig,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    start: nn.Module | None,
    teacher: nn.Module | None,
    degradations: Recipe | None = None,
) -> dict[str, Any]:
    """Identity of a run, which must not change when it goes on: images by names and sizes, networks by weights."""
    options = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in _FREE}
    return {
        "model": repr(config),
        **options,
        "images": _names_and_sizes(pairs),
        "validation images": _names_and_sizes(validation),
        "start": _weights(start),
        "teacher": _weights(teacher),
        "degradations": "" if degradations is None else hashlib.sha256(repr(degradations).encode()).hexdigest(),
    }


def _weights(model: nn.Module | None) -> str:
    if model is None:
        return ""
    weights = hashlib.sha256()
    for tensor in model.state_dict().values():
        weights.update(tensor.detach().cpu().contiguous().numpy())
    return weights.hexdigest()


def _names_and_sizes(pairs: Sequence[Pair]) -> str:
    listed = repr([(pair.name, pair.hr.shape, pair.lr.shape) for pair in pairs])
    return hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()


def stored_amp(path: Path) -> Amp:
    """The precision that the run in ``path`` computes in; CheckpointError if the file is damaged."""
    state = _read(path)
    known = state.get("identity")
    amp = known.get("amp") if isinstance(known, dict) else None
    return amp if amp in ("bfloat16", "float16") else "off"


def save_state(path: Path, identity: Identity, parts: Mapping[str, Stateful], progress: Progress) -> None:
    """Write ``path``, replacing it only when complete."""
    state = {
        "identity": dict(identity),
        "progress": dataclasses.asdict(progress),
        **{name: part.state_dict() for name, part in parts.items()},
    }
    data = io.BytesIO()  # in memory, so that a full disk is an error of ours and not of a C++ library
    torch.save(state, data)
    with replacing(path) as fresh:
        fresh.write_bytes(data.getbuffer())


def restore_state(path: Path, identity: Identity, parts: Mapping[str, Stateful]) -> Progress:
    """Load the state in ``path`` into ``parts``. InputError if it is of another run, CheckpointError if damaged.

    A finished run is the same with more ``steps``: it goes on. The learning rate is then that of the longer run.
    """
    state = _read(path)
    try:
        stored = state["identity"]
        ended = stored.get("steps")
        if state["progress"]["step"] == ended and "steps" in identity and identity["steps"] > ended:
            _LOG.info("%s is of a finished run: it goes on from step %d to %d", path, ended, identity["steps"])
            stored = {**stored, "steps": identity["steps"]}
        for name in sorted(stored.keys() | identity.keys()):
            if stored.get(name) != identity.get(name):
                what = f"not {name} {identity.get(name)}, but {stored.get(name)}"
                if name in _HASHED:
                    what = f"with other {name}" if name.endswith("s") else f"with another {name}"
                raise InputError(f"{path} belongs to another run, {what}: choose another output folder")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return Progress(**state["progress"])
    except InputError:
        raise
    except Exception as error:  # whatever is not as it was written
        raise _damaged(path, error) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as packed:
                if (entry := packed.testzip()) is not None:  # torch.load does not compare checksums
                    raise ValueError(f"checksum of {entry}")
            file.seek(0)
            state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
            return state
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error}): restore it, or remove it to start again"
        ) from error
    except Exception as error:  # torch.load raises whatever a damaged file makes it stumble over
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged ({type(error).__name__}): remove it to start again, or keep last.safetensors beside it"
    )
