"""Training options: each with its default (the paper's), and the files they may come from."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .._errors import InputError
from .._files import read_toml
from ..config import ModelConfig

Schedule = Literal["step", "cosine"]
Loss = Literal["l1", "l2", "charbonnier"]
Amp = Literal["auto", "off", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainConfig:
    """The recipe of one run. The defaults are those of the paper (Yu et al. 2018), which is silent on ``steps``."""

    steps: int = 600_000
    """Optimiser steps in all."""
    batch: int = 16
    """Patches for each step, over all processes."""
    patch: int = 48
    """LR pixels a side of a patch (96 HR pixels at x2)."""
    learning_rate: float | None = None
    """Adam's, at its highest; None is 1e-3 with weight norm and 1e-4 without it, as with ``quantize``."""
    beta2: float = 0.999
    """Adam's decay of squared gradients; less follows the cosine schedule of a short run more closely."""
    schedule: Schedule = "step"
    """``step`` halves the learning rate every ``halve_every`` steps, ``cosine`` takes it to 1 % at the last step."""
    halve_every: int = 200_000
    """Steps between halvings of the learning rate."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    loss: Loss = "l1"
    """``l1``, ``l2``, or ``charbonnier``, which is sqrt(x^2 + (1/255)^2)."""
    ema: float = 0.0
    """Decay of the averaged weights, which are what is validated and saved; 0 saves the weights as they are."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    quantize: bool = False
    """Train a network that is quantised as INT8 will be, with its scales; it begins with a trained one."""
    drawn: float = 0.0
    """Share of the patches that are of pictures the project draws: text, line art, screentone, flats and others."""
    reparameterize: bool = False
    """Train each kernel as a sum of branches, which what is saved has in one kernel again."""
    distillation: float = 0.5
    """Share of the loss that is the distance to the teacher's image, where there is a teacher."""
    amp: Amp = "auto"
    """Precision of the convolutions; ``auto`` is bfloat16 on a GPU (float16 on one without it), and on a CPU what is
    faster there, which is timed when a run begins and kept when it goes on."""
    amp_share: float = 1.0
    """Share of the steps, from the start, that use ``amp``; the others are float32."""
    channels_last: bool = True
    """Memory layout of the activations: NHWC, which was 1.1 to 1.4 times as fast on a CPU."""
    compile: bool = False
    """Run the network through torch.compile."""
    workers: int | None = None
    """Processes that cut patches; None is 4 on a GPU and none on a CPU."""
    seed: int = 0
    """Seeds the weights and every batch."""
    save_every: int = 1000
    """Steps between two saved states: what a killed run loses at most."""
    validate_every: int = 5000
    """Steps between validations, each of which also saves the state."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        for name, low, high in (
            *((name, 1, 10**9) for name in ("steps", "batch", "halve_every", "save_every", "validate_every")),
            *((name, 0, 10**9) for name in ("warmup", "seed")),
            *((name, 0, 1) for name in ("amp_share", "distillation", "drawn")),
            ("patch", 4, 4096),
            ("ema", 0, 0.99999),
            ("beta2", 0.5, 0.99999),
            ("clip", 0, 1e6),
            ("learning_rate", 1e-9, 1),
            ("workers", 0, 256),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} must be from {low:g} to {high:g}, got {str(value)[:30]}")
        if self.quantize and self.amp not in ("auto", "off"):
            raise InputError(f"amp must be off with quantize, whose codes {self.amp} would round")
        if self.quantize and self.reparameterize:
            raise InputError("quantize and reparameterize exclude each other: branches have no INT8 form")

    def peak_rate(self, config: ModelConfig) -> float:
        """The learning rate at its highest for a network of ``config``: ten times as high with weight norm, if kept."""
        return self.learning_rate or (1e-3 if config.norm == "weight" and not self.quantize else 1e-4)

    def rate(self, step: int) -> float:
        """Learning rate of ``step``, counted from 0, as a share of its highest."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "step":
            return float(0.5 ** (step // self.halve_every))
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


CHOICES: Mapping[str, tuple[str, ...]] = {"Schedule": get_args(Schedule), "Loss": get_args(Loss), "Amp": get_args(Amp)}
_NUMBERS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,)}


def _check_type(name: str, wanted: str, value: object) -> None:
    wanted, optional, _ = wanted.partition(" | None")
    if value is None and optional:
        return
    if wanted in CHOICES:
        if value not in CHOICES[wanted]:
            raise InputError(f"{name} must be one of {', '.join(CHOICES[wanted])}, got {value!r}")
    elif not isinstance(value, _NUMBERS[wanted]) or (isinstance(value, bool) and wanted != "bool"):
        raise InputError(f"{name} must be of type {wanted}, got {value!r}")


@dataclass(frozen=True)
class RunFile:
    """A TOML file with the options of ``wdsr-edge train``, all of them optional.

    At the top are ``model``, ``data``, ``validation``, ``output``, ``start``, ``teacher``, ``degrade``, ``cache`` and
    ``device`` (paths are relative to the working directory) and the fields of TrainConfig; the table ``[network]`` has
    those of ModelConfig that the model's name does not say, such as ``norm``.
    """

    places: Mapping[str, Any]
    recipe: Mapping[str, Any]
    network: Mapping[str, Any]


_SHORT = {"lr": "learning_rate", "batch_size": "batch", "patch_size": "patch", "epochs": "steps", "grad_clip": "clip"}
"""Names that other programs use."""

PLACES = ("model", "data", "validation", "output", "start", "teacher", "degrade", "cache", "device")


def read_run_file(path: str | os.PathLike[str]) -> RunFile:
    """The options in a TOML file; InputError names what it does not know."""
    values = read_toml(path)
    recipe = {field.name for field in dataclasses.fields(TrainConfig)}
    network = {field.name for field in dataclasses.fields(ModelConfig)} - {"arch", "blocks", "channels", "scale"}
    table = values.pop("network", {})
    if not isinstance(table, dict):
        raise InputError(f"{path}: network must be a table, [network]")
    for found, known in ((values, recipe | {*PLACES}), (table, network)):
        for name in sorted(found.keys() - known):
            near = _SHORT.get(name) or "".join(difflib.get_close_matches(name, sorted(known), 1))
            if name in network:
                hint = "it belongs in the table [network]"
            elif near in known:
                hint = f"did you mean {near}?"
            else:
                hint = f"there are {', '.join(sorted(known))}"
            raise InputError(f"{path}: unknown option {name[:100]!r}: {hint}")
    places = {name: values.pop(name) for name in PLACES if name in values}
    for name, value in places.items():
        many = name == "data"
        strings = value if many and isinstance(value, list) else [value]
        if not strings or not all(isinstance(text, str) and text for text in strings):
            raise InputError(f"{path}: {name} must be a string, not empty{', or a list of such' if many else ''}")
        places[name] = strings if many else value
    return RunFile(places, values, table)
