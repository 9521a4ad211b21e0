"""Prints the weights of a Keras HDF5 file: a JSON line that lists the arrays, then their float32 numbers.

A program of its own (``python read_hdf5.py FILE``), because the HDF5 library crashes or hangs on some damaged files.
It imports nothing of this project. Exit code 65: one line on stderr says what is wrong with the file.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

MOST_NAMES = 100_000


class Refused(Exception):
    """The fault of the file."""


def weights(root: Any) -> Iterator[tuple[str, str, Any]]:
    """(layer, name in it, dataset) of every weight, for each of the layouts that Keras writes.

    In layer order where the file has one, else in that of the names as text.
    """
    model = _child(root, "model_weights") if _holds(root, "model_weights") else root
    if any(name in model.attrs for name in ("layer_names", "layer_names0")):
        for layer in _names(model, "layer_names"):
            group = _child(model, layer)
            for name in _names(group, "weight_names"):
                yield layer, name, _child(group, name)
        return
    folder = next((name for name in ("layers", "_layer_checkpoint_dependencies") if _holds(root, name)), None)
    if folder is None:
        raise Refused("no Keras weights: it has no layer_names and no group of layers")
    for layer in sorted(_members(_child(root, folder))):  # groups have no order; what reads this knows the numbers
        group = _child(_child(root, folder), layer)
        if _holds(group, "vars"):
            variables = _child(group, "vars")
            for name in sorted(_members(variables), key=_by_number):
                yield layer, name, _child(variables, name)


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, which Keras splits over numbered attributes if it is long."""
    numbered = takewhile(lambda name: name in group.attrs, (f"{attribute}{i}" for i in range(MOST_NAMES)))
    attributes = [attribute] if attribute in group.attrs else list(numbered)
    if not attributes:
        raise Refused(f"{_cut(group.name)} has no {attribute}")
    names: list[str] = []
    for name in attributes:
        found = group.attrs.get_id(name)
        if found.shape in (None, (0,)):  # Keras leaves the list of a layer without weights so
            continue
        if h5py.check_string_dtype(found.dtype) is None or len(found.shape) != 1 or found.shape[0] > MOST_NAMES:
            raise Refused(f"{name} of {_cut(group.name)} is not a list of names")
        names += [text.decode() if isinstance(text, bytes) else str(text) for text in group.attrs[name]]
    return names


def _members(group: Any) -> list[str]:
    if not isinstance(group, h5py.Group) or len(group) > MOST_NAMES:
        raise Refused(f"{_cut(group.name)} is not a group of layers")
    return list(group)


def _holds(group: Any, name: str) -> bool:
    """True if there is such a link, without following it."""
    return isinstance(group, h5py.Group) and bool(name) and group.id.links.exists(name.encode())


def _child(group: Any, path: str) -> Any:
    """The object at ``path``, through hard links alone: soft and external ones could lead into other files."""
    for part in path.split("/"):
        if not _holds(group, part):
            raise Refused(f"{_cut(path)} in {_cut(group.name)} is missing")
        if group.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise Refused(f"{_cut(path)} in {_cut(group.name)} is a link to elsewhere")
        group = group[part]
    return group


def _cut(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:60]}...{name[-30:]}"


def _by_number(name: str) -> tuple[int, str]:
    """Keras 3 numbers the variables of a layer."""
    return (int(name), name) if re.fullmatch("[0-9]{1,9}", name) else (-1, name)


def read(dataset: Any, name: str, left: int) -> NDArray[np.float32] | None:
    """A dataset of at most ``left`` bytes as float32; None for a flag."""
    if not isinstance(dataset, h5py.Dataset):
        raise Refused(f"{_cut(name)} is not a dataset")
    if dataset.shape == () and dataset.dtype.kind in "biu":
        return None
    creation = dataset.id.get_create_plist()
    if creation.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or creation.get_external_count():
        raise Refused(f"{_cut(name)} is chunked, compressed or lies in another file: write it as Keras does")
    if dataset.shape is None or dataset.dtype.kind != "f" or dataset.dtype.itemsize > 8:
        raise Refused(f"{_cut(name)} is {dataset.dtype}: expected float32")
    if 0 in dataset.shape:
        raise Refused(f"{_cut(name)} {list(dataset.shape)} is empty")
    if dataset.nbytes > left:
        raise Refused(f"{_cut(name)} {list(dataset.shape)} is larger than the file: it is damaged or cut short")
    with np.errstate(all="ignore"):
        return np.asarray(dataset[()], dtype="<f4")


def main(path: str) -> None:
    """Write the arrays of ``path`` to stdout."""
    left = os.path.getsize(path)
    listed, arrays = [], []
    with h5py.File(path, "r", locking=False) as file:
        for layer, name, dataset in weights(file):
            array = read(dataset, name, left)
            if array is not None:
                left -= dataset.nbytes
                listed.append([layer, name, array.shape])
                arrays.append(array)
    sys.stdout.buffer.write(json.dumps(listed).encode() + b"\n")
    for array in arrays:
        sys.stdout.buffer.write(array.tobytes())


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:  # the library raises nearly everything on damage
        text = str(error) if isinstance(error, Refused) else f"damaged, or no HDF5 file ({error})"
        sys.stderr.write(" ".join(text[:400].split()))
        sys.exit(65)
