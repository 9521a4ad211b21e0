"""Weight norm, batch norm, residual scaling and training's branches folded into plain convolutions.

A weight-normed kernel is ``g * v / |v|`` (Salimans & Kingma 2016, arXiv:1602.07868), so it is computed once. The
branches of reparameterised training are summed into their kernel. A batch norm at test time is an affine map for each
channel, and residual scaling is one factor: both go into the convolution before them. The result is a new network; the
caller's is only read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from .._errors import ExportError
from .build import build
from .edsr import EDSR
from .layers import Branches, Scaling
from .wdsr import WDSR


@torch.no_grad()
def fold(model: nn.Module) -> EDSR | WDSR:
    """A new network of plain convolutions, in eval mode on the CPU, equal to ``model.eval()`` to rounding.

    ``model`` is what ``build`` returns, in any mode and on any device. Raises ExportError for anything that has no
    exact plain form: other layers, other parametrizations, hooks, batch norm without running statistics, NaN.
    """
    if type(model) not in (EDSR, WDSR):
        raise ExportError(f"cannot fold a {type(model).__name__}: expected a model made by wdsr_edge.models.build")
    assert isinstance(model, (EDSR, WDSR))
    with torch.random.fork_rng(devices=[]):
        original, folded = build(model.config), build(replace(model.config, norm="none", res_scale=1.0))
    _check_structure(model, original)
    plain = [module for module in folded.modules() if isinstance(module, nn.Conv2d)]
    names = [conv.name for conv in model.config.convs]
    for name, conv, (weight, bias) in zip(names, plain, _folded_convs(model), strict=True):
        assert conv.bias is not None
        if weight.shape != conv.weight.shape:
            raise ExportError(f"cannot fold {name}: kernel {list(weight.shape)}, config says {list(conv.weight.shape)}")
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
        if not (conv.weight.isfinite().all() and conv.bias.isfinite().all()):
            raise ExportError(f"cannot fold {name}: its weights are not finite; train again from an older checkpoint")
    return folded.eval().requires_grad_(False)


def _check_structure(model: nn.Module, original: nn.Module) -> None:
    """Refuse a model that was changed since ``build`` made it: what was added would be lost without a word."""
    found, expected = (
        {
            name: (type_before_parametrizations(module), getattr(module, "upscale_factor", None))
            for name, module in layers
        }
        for layers in (_modules(model), _modules(original))
    )
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise ExportError(f"cannot fold {name or 'the model'}: it is not what its config makes of it")
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            raise ExportError(f"cannot fold {name or 'the model'}: it has hooks or its own forward; remove them first")


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Named modules, but for what makes up a parametrization."""
    return ((name, module) for name, module in model.named_modules() if ".parametrizations" not in f".{name}")


def _folded_convs(model: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Kernel and bias of every convolution with all that follows it folded in, in module order, float64."""
    weight = bias = None
    for name, module in _modules(model):
        if isinstance(module, nn.Conv2d):
            if weight is not None and bias is not None:
                yield weight, bias
            weight, bias = _plain_conv(name, module)
        elif isinstance(module, (nn.BatchNorm2d, Scaling)):
            assert weight is not None
            assert bias is not None
            factor, shift = _affine(name, module)
            weight, bias = weight * factor.view(-1, 1, 1, 1), bias * factor + shift
    if weight is not None and bias is not None:
        yield weight, bias


_KNOWN = ([("_WeightNorm", 0)], [("_WeightNorm", 0), ("Branches", None)], [("Branches", None)])
"""The parametrizations of a kernel that have a plain form."""


def _plain_conv(name: str, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    parametrizations = getattr(conv, "parametrizations", {})
    for tensor, steps in parametrizations.items():
        if tensor != "weight" or [(type(step).__name__, getattr(step, "dim", None)) for step in steps] not in _KNOWN:
            raise ExportError(f"cannot fold {name}: parametrization {steps} of {tensor} is not weight norm over dim 0")
    same = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
    if conv.padding_mode != "zeros" or conv.padding != same or conv.stride != (1, 1) or conv.dilation != (1, 1):
        raise ExportError(f"cannot fold {name}: {conv} is not a zero-padded convolution of stride 1")
    if parametrizations:
        kernel = parametrizations["weight"]
        stored = [p.detach().double().cpu() for p in kernel.parameters(recurse=False)]
        weight = stored[0]
        if len(stored) == 2:
            g, v = stored
            weight = v * (g / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        for step in kernel:
            if isinstance(step, Branches):
                weight = copy.deepcopy(step).double().cpu()(weight)
    else:
        weight = conv.weight.detach().double().cpu()
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else conv.bias.detach().double().cpu()
    return weight, bias


def _affine(name: str, module: nn.BatchNorm2d | Scaling) -> tuple[Tensor, Tensor]:
    """Factor and shift that a batch norm (at test time) or a residual scaling applies to each channel."""
    if isinstance(module, Scaling):
        return torch.tensor([module.factor], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    if module.running_mean is None or module.running_var is None:
        raise ExportError(f"cannot fold {name}: a batch norm without running statistics depends on the batch")
    mean, variance = module.running_mean.double().cpu(), module.running_var.double().cpu()
    factor = (variance + module.eps).rsqrt()
    if module.affine:
        factor = factor * module.weight.detach().double().cpu()
    shift = -mean * factor
    return factor, shift + module.bias.detach().double().cpu() if module.affine else shift
