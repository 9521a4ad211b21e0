"""Audit: the precision of each convolution in an engine, against what its ONNX file asks for.

Two sources are read: the JSON of TensorRT's engine inspector (10.x and 11.x name its fields differently, see NVIDIA,
"Migrating IEngineInspector Usage from TensorRT 10.x to 11.x"), which needs a GPU, and the list of layers that TensorRT
for RTX logs while it builds, which does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._errors import BundleError
from ...bundle import Precision
from ...onnx_reader import conv_precisions

_TYPES: Mapping[str, Precision] = {
    **dict.fromkeys(("float", "fp32", "float32", "tf32"), "fp32"),
    **dict.fromkeys(("half", "fp16", "float16"), "fp16"),
    "int8": "int8",
}
_CONVOLUTION = re.compile(r"correlation|conv|gemm|runtime_fusion|^dla$", re.IGNORECASE)
_REFORMAT = re.compile(r"reformat", re.IGNORECASE)
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_LINE = re.compile(
    r"Name: (.*?), LayerType: (\w+), Inputs: \[(.*?)\], (?:Constants: \[.*?\], )?Outputs: \[(.*?)\], TacticName: .*"
)
_PROFILE = re.compile(r"\[profile (\d+)\]|_myl(\d+)_\d+$")
_LOGGED_TYPE = re.compile(r"Datatype: (\w+)")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine."""

    name: str
    """Its name there."""
    kind: str
    """The kernel that runs it, such as ``correlation`` or ``CaskConvolution``."""
    nodes: tuple[str, ...]
    """The ONNX nodes that it computes."""
    reads: tuple[str, ...]
    """Types of its inputs, the first of which is what a convolution computes in."""
    writes: tuple[str, ...]
    """Types of its outputs."""

    @property
    def precision(self) -> Precision | None:
        """The precision it computes in; None if unknown."""
        return _precision(self.reads[0]) if self.reads else None

    @property
    def profile(self) -> int:
        """For which of an engine's profiles it is there, as its name tells."""
        found = _PROFILE.search(self.name)
        return int(found[1] or found[2]) if found else 0


@dataclass(frozen=True)
class Audit:
    """The result."""

    convolutions: int
    """Number of them in the ONNX file."""
    faults: Sequence[str]
    """Each convolution that runs in another precision than it asked for, or in one that is not told."""
    reformats: Sequence[str]
    """Layers that only change a layout."""
    widened: Sequence[str]
    """INT8 convolutions that hand on FP32, which another layer then has to round: they are not fused with it."""

    @property
    def passed(self) -> bool:
        """True if every convolution runs in what it asked for."""
        return not self.faults


def check_graph(onnx: bytes, precision: Precision) -> None:
    """BundleError if no convolution of ``onnx`` asks for the precision that it is said to be in."""
    if precision not in conv_precisions(onnx).values():
        raise BundleError(f"no convolution of the {precision} graph asks for {precision}: deploy the model again")


def audit(onnx: bytes, layers: str, profiles: int = 1) -> Audit:
    """Compare what ``onnx`` asks for with ``layers``, as ``Built`` has them, in each of an engine's profiles.

    A layer that is not told of is a fault. Raises BundleError if ``onnx`` does not tell what it asks for.
    """
    asked = conv_precisions(onnx)
    found = read_layers(layers)
    faults, widened = [], []
    for name, wanted in asked.items():
        mine = [layer for layer in found if name in layer.nodes and _CONVOLUTION.search(layer.kind)]
        seen = {layer.profile for layer in mine} if profiles > 1 else {0 for _ in mine}
        got: set[str] = {layer.precision or "a precision that is not told" for layer in mine}
        got |= {"a layer that is not told of"} if seen != {*range(profiles)} else set()
        if got != {wanted}:
            faults.append(f"{name} asked for {wanted} and runs in {', '.join(sorted(got))}")
        elif wanted == "int8" and any(_precision(kind) == "fp32" for layer in mine for kind in layer.writes):
            widened.append(name)
    reformats = [layer.name for layer in found if _REFORMAT.search(layer.kind + layer.name)]
    return Audit(len(asked), faults, reformats, widened)


def read_layers(text: str) -> list[Layer]:
    """The layers in an inspector's JSON or a builder's log; none if it is neither, or lists names alone."""
    if text.lstrip().startswith("{"):
        try:
            return [_from_json(entry) for entry in json.loads(text)["Layers"] if isinstance(entry, dict)]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []
    return [_from_log(match) for match in map(_LINE.match, text.splitlines()) if match is not None]


def _from_json(entry: Mapping[str, Any]) -> Layer:
    def types(side: str) -> tuple[str, ...]:
        return tuple(
            str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "") for tensor in entry.get(side, ())
        )

    nodes = tuple(_ONNX_NODE.findall(str(entry.get("Metadata", ""))))
    return Layer(str(entry.get("Name", "")), str(entry.get("LayerType", "")), nodes, types("Inputs"), types("Outputs"))


def _from_log(match: re.Match[str]) -> Layer:
    reads, writes = (tuple(_LOGGED_TYPE.findall(part)) for part in (match[3], match[4]))
    return Layer(match[1], match[2], tuple(_ONNX_NODE.findall(match[0])), reads, writes)


def _precision(text: str) -> Precision | None:
    """The type in the name of a type, or of a format such as ``Row major linear FP32``."""
    found = {_TYPES[word] for word in re.findall(r"\w+", text.lower()) if word in _TYPES}
    return found.pop() if len(found) == 1 else None
