"""Convolutions as another project's file holds them, put together from its tensors and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..._errors import CheckpointError

LARGEST = 1 << 30
"""Bytes that a file, or its weights as float32, may have."""

LONGEST_NAME = 1000
"""Letters in the name of a tensor."""

Role = Literal["kernel", "v", "g", "bias", "other"]


class Part(NamedTuple):
    """One tensor of a file."""

    layer: str
    """Of the file; tensors of the same layer make one convolution."""
    role: Role
    """``kernel`` may be weight-normed, ``v`` must be; ``other`` is not part of a convolution by its name."""
    name: str
    """Of the tensor in the file."""
    tensor: Tensor
    """Kernels are [outputs, inputs, height, width]."""


@dataclass(frozen=True, eq=False)
class Convolution:
    """One convolution, float32 and finite."""

    layer: str
    name: str
    """Of its kernel in the file."""
    kernel: Tensor
    """[outputs, inputs / groups, size, size]; with ``g``, the direction v of a weight norm."""
    g: Tensor | None
    """[outputs], the norm of each output's kernel, or None without weight norm."""
    bias: Tensor | None
    """[outputs]"""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Outputs, inputs of each group, size."""
        outputs, inputs, size, _ = self.kernel.shape
        return outputs, inputs, size

    @property
    def plain(self) -> Tensor:
        """The kernel with its weight norm folded in."""
        if self.g is None:
            return self.kernel
        v = self.kernel.double()
        plain: Tensor = v * (self.g.double() / v.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
        return plain.float()

    def __str__(self) -> str:
        return shown(self.name, self.kernel)


def assemble(parts: Iterable[Part]) -> tuple[list[Convolution], list[str]]:
    """Every convolution in the order of ``parts``, and the names of tensors that are not weights and were left out.

    Left out are counters and colours (integers, and three numbers that belong to no convolution). Raises
    CheckpointError naming any other tensor that is not part of a convolution, or is not finite, real and dense.
    """
    layers: dict[str, dict[str, Part]] = {}
    left_out, size = [], 0
    for part in parts:
        if len(part.name) > LONGEST_NAME:
            raise CheckpointError(f"it has a tensor name of {len(part.name)} letters ({printable(part.name)})")
        tensor, roles = part.tensor, layers.setdefault(part.layer, {})
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.device.type != "cpu":
            raise CheckpointError(f"{printable(part.name)} is sparse, nested, quantised or without data: save it dense")
        role = part.role if part.role != "other" else f"other {len(roles)}"
        if role in roles or {"kernel", "v"} <= {*roles, role}:
            raise CheckpointError(f"layer {printable(part.layer)!r} has two of its {part.role}")
        roles[role] = part
        size += tensor.numel() * 4
        if size > LARGEST:
            raise CheckpointError(f"its tensors are more than {LARGEST >> 30} GiB: no super-resolution network")
    convolutions = []
    for roles in layers.values():
        kernel = roles.pop("kernel", None) or roles.pop("v", None)
        if kernel is not None:
            convolutions.append(_convolution(kernel, roles.pop("g", None), roles.pop("bias", None)))
        elif "g" in roles:
            raise CheckpointError(f"{shown(*roles['g'][2:])} is the g of a weight norm, but the file lacks its v")
        for part in roles.values():
            if part.tensor.numel() != 3 and (part.tensor.dim() or part.tensor.is_floating_point()):
                raise CheckpointError(f"{shown(part.name, part.tensor)} is not part of a convolution")
            left_out.append(part.name)
    return convolutions, left_out


def _convolution(kernel: Part, g: Part | None, bias: Part | None) -> Convolution:
    shape = tuple(kernel.tensor.shape)
    if len(shape) != 4 or shape[2:] not in ((1, 1), (3, 3), (5, 5)) or 0 in shape:
        raise CheckpointError(f"{shown(*kernel[2:])} is not a kernel [outputs, inputs, size, size] of size 1, 3 or 5")
    if kernel.role == "v" and g is None:
        raise CheckpointError(f"{shown(*kernel[2:])} is weight-normed, but the file lacks its g")
    if g is not None and tuple(g.tensor.shape) not in (shape[:1], (shape[0], 1, 1, 1)):
        raise CheckpointError(
            f"{shown(*g[2:])} is not a weight norm over outputs: {shown(*kernel[2:])} needs {shape[:1]}"
        )
    if bias is not None and tuple(bias.tensor.shape) != shape[:1]:
        raise CheckpointError(f"{shown(*bias[2:])} is not a bias of {shown(*kernel[2:])}")
    made = Convolution(
        kernel.layer,
        kernel.name,
        _float32(kernel),
        None if g is None else _float32(g).flatten(),
        None if bias is None else _float32(bias),
    )
    if not made.plain.isfinite().all():
        raise CheckpointError(
            f"{shown(*kernel[2:])} has a weight norm of zero or beyond float32; use an older checkpoint"
        )
    return made


def _float32(part: Part) -> Tensor:
    tensor = part.tensor.detach()
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{shown(part.name, tensor)} is {dtype}: save it as float32")
    tensor = tensor.float().contiguous()
    if not tensor.isfinite().all():
        raise CheckpointError(f"{shown(part.name, tensor)} is not finite; use an older checkpoint")
    return tensor


def shown(name: str, tensor: Tensor) -> str:
    """A tensor of the file for an error message."""
    return f"{printable(name)} {list(tensor.shape)}"


def printable(text: str, longest: int = 100) -> str:
    """Text of a file, on one line of limited length."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= longest else f"{text[: longest - 40]}...{text[-30:]}"
