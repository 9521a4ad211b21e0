"""Keras HDF5 weights, as ``save_weights`` and ``save`` of krasserm/super-resolution write them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ..._errors import CheckpointError, require
from .convolutions import Convolution, Part, Role, assemble, printable

SECONDS = 30
PROGRAM = Path(__file__).with_name("read_hdf5.py")
REFUSED = 65
"""Exit code of PROGRAM for a file that is at fault."""

_ROLES: Mapping[str, Role] = {"kernel": "kernel", "v": "v", "g": "g", "bias": "bias"}


def read_keras(path: Path) -> tuple[list[Convolution], list[str]]:
    """Convolutions in layer order, kernels in PyTorch's axes, and the names of what was left out.

    Weight norm is tensorflow-addons': ``kernel`` is v where the layer has a ``g``. Raises CheckpointError for a file
    that is damaged or no Keras weights, MissingExtraError without h5py.
    """
    require("h5py", "train")
    data = _run(path)
    header, _, numbers = data.partition(b"\n")
    parts, offset = [], 0
    for layer, name, shape in json.loads(header):
        size = math.prod(shape)
        array = np.frombuffer(numbers, "<f4", size, offset).astype(np.float32).reshape(shape)
        offset += 4 * size
        tensor = torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
        above, _, leaf = name.rpartition("/")
        if leaf.isdecimal():  # Keras 3 numbers a layer's variables
            role: Role = "kernel" if array.ndim == 4 else "bias"
        else:
            role = _ROLES.get(leaf.partition(":")[0], "other")
        parts.append(Part(f"{layer}/{above}", role, f"{layer}/{name}" if leaf.isdecimal() else name, tensor))
    return assemble(parts)


def _run(path: Path) -> bytes:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
    environment["HDF5_PLUGIN_PRELOAD"] = "::"  # no filters from elsewhere
    command = [sys.executable, "-W", "ignore", str(PROGRAM), str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"the HDF5 library hangs on it ({SECONDS} s): it is damaged") from error
    said = printable(done.stderr.decode(errors="replace").strip().rpartition("\n")[2], 400)
    if done.returncode == REFUSED:
        raise CheckpointError(said)
    if done.returncode < 0:
        raise CheckpointError("the HDF5 library crashes on it: it is damaged")
    if done.returncode:
        raise CheckpointError(f"cannot be read: {PROGRAM.name} failed ({said})")
    return done.stdout
