"""Reads what a device must know of an ONNX file, without the onnx package, and refuses what no bundle of ours holds.

Only the protobuf wire format is decoded (https://protobuf.dev/programming-guides/encoding) with the field numbers of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Nothing in the file is run or allocated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ._errors import BundleError

OPERATORS = frozenset(
    {"Add", "Cast", "Clip", "Conv", "DepthToSpace", "DequantizeLinear", "Mul", "QuantizeLinear"}
    | {"Relu", "Reshape", "Shape", "Sub", "Transpose"}
)
"""Operators of deploy graphs, INT8 included; anything else in a bundle is refused."""

_UINT8, _FLOAT = 2, 1
_DTYPES = {_UINT8: "uint8", _FLOAT: "float32"}
_Kernel = Literal["fp32", "fp16", "int8"]
_KERNELS: Mapping[int, _Kernel] = {_FLOAT: "fp32", 10: "fp16", 3: "int8"}
_Value = int | bytes | None
_Field = tuple[int, _Value]
TensorInfo = tuple[str, tuple[int | str, ...]]
"""dtype and shape; dynamic dimensions are names."""


@dataclass(frozen=True)
class OnnxSummary:
    """Interface, operators and metadata of an ONNX file."""

    opset: int
    """Version of the standard operator set."""
    inputs: Mapping[str, TensorInfo]
    """Each input by name."""
    outputs: Mapping[str, TensorInfo]
    """As ``inputs``."""
    operators: Mapping[str, int]
    """Number of nodes of each operator."""
    metadata: Mapping[str, str]
    """The file's metadata properties."""


def read_onnx(data: bytes) -> OnnxSummary:
    """Summary of a serialised ONNX model; BundleError for damage, custom operators, subgraphs or external data."""
    try:
        return _read_model(data)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise BundleError(f"not a readable ONNX file ({error})") from error


def conv_precisions(data: bytes) -> dict[str, _Kernel]:
    """The precision that each convolution asks for by the type of its kernel, by name; of a file that was checked.

    A kernel is a constant, or the codes in front of a DequantizeLinear. Raises BundleError for any other.
    """
    try:
        (graph,) = (_bytes(value) for number, value in _fields(data) if number == 7)
        types: dict[str, int] = {}
        made_by: dict[str, tuple[_Value, list[str]]] = {}
        convs: dict[str, str] = {}
        for number, value in _fields(graph):
            if number == 5:
                tensor = dict(_fields(_bytes(value)))
                types[_text(tensor.get(8, b""))] = _int(tensor.get(2, 0))
            elif number == 1:
                parts = list(_fields(_bytes(value)))
                inputs = [_text(part) for field, part in parts if field == 1]
                node = dict(parts)
                made_by |= dict.fromkeys((_text(part) for field, part in parts if field == 2), (node.get(4), inputs))
                if node.get(4) == b"Conv":
                    name = _text(node.get(3, b""))
                    if not name or name in convs or "]" in name:  # an engine's layers are told by them
                        raise ValueError(f"no name of its own has the convolution {name[:60]!r}")
                    convs[name] = inputs[1]
        found = {}
        for name, kernel in convs.items():
            operator, inputs = made_by.get(kernel, (None, []))
            found[name] = _KERNELS[types[inputs[0] if operator == b"DequantizeLinear" else kernel]]
        return found
    except (ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise BundleError(f"the kernels in an ONNX file cannot be told ({error})") from error


def _read_model(data: bytes) -> OnnxSummary:
    opset, graph, metadata = 0, b"", {}
    for number, value in _fields(data):
        if number == 7:
            if graph:
                raise BundleError("a graph in several pieces is refused")
            graph = _bytes(value)
        elif number == 8:
            imported = _message(value)
            if imported.get(1, b"") not in (b"", b"ai.onnx"):
                raise BundleError(f"custom operator set {_text(imported[1])!r} is refused")
            opset = _int(imported.get(2, 0))
        elif number == 14:
            key, text = _strings(_bytes(value), 1, 2)
            metadata[key] = text
        elif number == 25:
            raise BundleError("functions in an ONNX file are refused")
    if not graph:
        raise ValueError("it holds no graph")
    operators: Counter[str] = Counter()
    inputs: dict[str, TensorInfo] = {}
    outputs: dict[str, TensorInfo] = {}
    for number, value in _fields(graph):
        if number == 1:
            operators[_read_node(_bytes(value))] += 1
        elif number == 5:
            _check_tensor(_bytes(value))
        elif number == 15:
            raise BundleError("sparse tensors in an ONNX file are refused")
        elif number in (11, 12):
            name, kind = _value_info(_bytes(value))
            if name in inputs or name in outputs:
                raise BundleError(f"two inputs or outputs named {name!r} are refused")
            (inputs if number == 11 else outputs)[name] = kind
    return OnnxSummary(opset, inputs, outputs, operators, metadata)


def _read_node(data: bytes) -> str:
    """The operator of a node, once it is known to be harmless."""
    op = ""
    for number, value in _fields(data):
        if number == 4:
            op = _text(value)
        elif number == 7 and value not in (b"", b"ai.onnx"):
            raise BundleError(f"custom operator of domain {_text(value)!r} is refused")
        elif number == 5:
            for part, item in _fields(_bytes(value)):
                if part in (6, 11, 22, 23):
                    raise BundleError("subgraphs and sparse tensors in an ONNX file are refused")
                if part in (5, 10):
                    _check_tensor(_bytes(item))
    if op not in OPERATORS:
        raise BundleError(f"operator {op!r} is refused: no deploy graph of this project holds it")
    return op


def _check_tensor(data: bytes) -> None:
    if any(number == 13 or (number == 14 and value != 0) for number, value in _fields(data)):
        raise BundleError("external data in an ONNX file is refused")


def _value_info(data: bytes) -> tuple[str, TensorInfo]:
    info = _message(data)
    tensor = _message(_message(info.get(2, b"")).get(1, b""))
    element = _int(tensor.get(1, 0))
    shape: list[int | str] = []
    for _, dim in _fields(_bytes(tensor.get(2, b""))):
        size = _message(_bytes(dim))
        shape.append(_text(size[2]) if 2 in size else _int(size.get(1, 0)))
    return _text(info.get(1, b"")), (_DTYPES.get(element, f"type {element}"), tuple(shape))


def _strings(data: bytes, *numbers: int) -> tuple[str, ...]:
    found = _message(data)
    return tuple(_text(found.get(number, b"")) for number in numbers)


def _message(data: _Value) -> dict[int, _Value]:
    """Fields of a message in which none may stand twice: protobuf would merge them, and we would see one."""
    fields = list(_fields(_bytes(data)))
    found = dict(fields)
    if len(found) != len(fields):
        raise ValueError("a field stands twice")
    return found


def _fields(data: bytes) -> Iterator[_Field]:
    """Field numbers and values of one message: integers, bytes for what has a length, None for fixed-width numbers."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number}")
        if wire == 0:
            integer, position = _varint(data, position)
            yield number, integer
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > len(data):
            raise ValueError("it ends too early")
        yield number, data[position : position + size] if wire == 2 else None
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError(f"an integer at byte {position} is too long")


def _int(value: _Value) -> int:
    if not isinstance(value, int):
        raise TypeError("something else where an integer belongs")
    return value


def _bytes(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes belong")
    return value


def _text(value: _Value) -> str:
    return _bytes(value).decode()
