"""Reads what a device must know of an ONNX file, without the onnx package, and refuses what no bundle of ours holds.

Only the protobuf wire format is decoded (https://protobuf.dev/programming-guides/encoding) with the field numbers of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Nothing in the file is run or allocated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ._errors import BundleError

OPERATORS = frozenset(
    {"Add", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "DequantizeLinear", "Mul", "QuantizeLinear"}
    | {"Relu", "Reshape", "Shape", "Sub", "Transpose"}
)
"""All that a deploy graph is made of; anything else in a bundle is refused."""

_UINT8, _FLOAT = 2, 1
_DTYPES = {_UINT8: "uint8", _FLOAT: "float32"}
_Field = tuple[int, int | bytes]
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
    """How often each operator stands in the graph."""
    metadata: Mapping[str, str]
    """The file's metadata properties."""


def read_onnx(data: bytes) -> OnnxSummary:
    """Summary of a serialised ONNX model; BundleError for damage, custom operators, subgraphs or external data."""
    try:
        return _read_model(data)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise BundleError(f"not a readable ONNX file ({error})") from error


def _read_model(data: bytes) -> OnnxSummary:
    opset, graph, metadata = 0, b"", {}
    for number, value in _fields(data):
        if number == 7:
            graph = _bytes(value)
        elif number == 8:
            domain, version = b"", 0
            for part, item in _fields(_bytes(value)):
                domain, version = (_bytes(item), version) if part == 1 else (domain, _int(item))
            if domain not in (b"", b"ai.onnx"):
                raise BundleError(f"custom operator set {domain.decode(errors='replace')!r} is refused")
            opset = version
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
    name, dtype, shape = "", "", []
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensor = next((_bytes(item) for part, item in _fields(_bytes(value)) if part == 1), b"")
            for part, item in _fields(tensor):
                if part == 1:
                    dtype = _DTYPES.get(_int(item), f"type {item!r}")
                elif part == 2:
                    for _, dim in _fields(_bytes(item)):
                        sizes = list(_fields(_bytes(dim)))
                        shape.append(_text(sizes[0][1]) if sizes and sizes[0][0] == 2 else _int(sizes[0][1]))
    return name, (dtype, tuple(shape))


def _strings(data: bytes, *numbers: int) -> tuple[str, ...]:
    found = dict(_fields(data))
    return tuple(_text(found.get(number, b"")) for number in numbers)


def _fields(data: bytes) -> Iterator[_Field]:
    """Field numbers and values of one message: integers, or bytes for everything that has a length."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
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
        yield number, data[position : position + size]
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


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise TypeError("bytes where an integer belongs")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError("an integer where bytes belong")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()
