"""Quantisation-aware fine-tuning: a network that is trained as INT8 will compute it, scales included.

``begin`` makes one of a trained network, for ``wdsr_edge.training.train``; ``save`` writes what it has learned as a
checkpoint of plain kernels, whose metadata says what is INT8 and with which scales; ``learned`` reads that.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from wdsr_edge._errors import CheckpointError
from wdsr_edge.data.pairs import Pair
from wdsr_edge.models import EDSR, WDSR, fold, load_checkpoint, save_checkpoint
from wdsr_edge.models.checkpoint import read_metadata

from .calibrate import CalibrationConfig, fit
from .drop import Drop
from .learning import LearningConfig
from .network import Network, representable, result_of
from .placement import Placement, body
from .qdq import Quantised
from .samples import PHOTOGRAPHS, cut, drawn

INT8_KEY = "wdsr_edge.int8"

CROPS = 128
"""Number of photograph crops that the initial scales are found on, with half as many drawn ones."""


def begin(
    model: EDSR | WDSR,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    size: int,
    *,
    fused: bool = False,
) -> Network:
    """``model`` equalised, its body in INT8 with scales found on crops of ``pairs`` and drawn ones, all to be learned.

    ``size``: LR pixels a side of a crop. ``fused``: the identities of the residual adds are INT8 as well.
    """
    config = CalibrationConfig(learning=LearningConfig(steps=0), identities="int8" if fused else "float")
    crops = {PHOTOGRAPHS: _crops(pairs, size), **drawn(CROPS // 12, size, model.config.scale, seed=0)}
    network = fit(model, crops, Drop(fold(model), {PHOTOGRAPHS: validation}), config).network
    body(network, identities=fused, results=True).apply(network)
    network.requires_grad_(True)
    read = {edge.quantiser for edge in network.edges.values() if edge.quantised}
    for quantiser in {*network.tensors.values()} - read:  # processes that train together want a gradient for all
        quantiser.requires_grad_(False)
    return network


def _crops(pairs: Sequence[Pair], size: int) -> list[Pair]:
    random = np.random.default_rng(0)
    crops = []
    for i in random.integers(len(pairs), size=CROPS):
        top, left = (int(random.integers(side - size + 1)) for side in pairs[i].lr.shape[:2])
        crops.append(cut(pairs[i], size, top, left))
    return crops


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """A checkpoint of the learned kernels, with what is INT8 and the scales in its metadata."""
    int8 = {"scales": network.scales, **dataclasses.asdict(Placement.of(network))}
    save_checkpoint(network.plain(), path, {INT8_KEY: json.dumps(int8, sort_keys=True)})


def learned(path: str | os.PathLike[str]) -> Quantised | None:
    """Quantised network that ``save`` wrote, in TensorRT's form; None for a checkpoint without one.

    Raises CheckpointError for metadata that does not fit the network.
    """
    text = read_metadata(path).get(INT8_KEY)
    if text is None:
        return None
    model = load_checkpoint(path)
    network = Network(model)
    try:
        int8 = json.loads(text)
        placement = Placement(tuple(int8["convs"]), tuple(int8["identities"]), tuple(int8.get("results", ())))
        fits = {*placement.convs} <= {*network.quantisable} and {*placement.identities} <= {*network.identities}
        fits = fits and {*placement.results} <= {*network.results}
        scales = _checked(int8["scales"], network)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: what its metadata says of INT8 cannot be read ({error!r})") from error
    names = (*placement.convs, *placement.identities, *map(result_of, placement.results))
    if not fits or not placement.convs or len({*names}) < len(names):
        raise CheckpointError(f"{path}: its metadata puts convolutions in INT8 that {model.config.name} has not")
    return Quantised(model.config, model, "tensorrt", scales, placement)


def _checked(scales: Mapping[str, Any], network: Network) -> dict[str, float]:
    found = {name: float(scales[name]) for name in network.tensors}
    for name, scale in found.items():
        if not (math.isfinite(scale) and float(representable(torch.tensor(scale))) == scale):
            raise ValueError(f"the scale of {name} is not a positive FP16 number")
    return found
