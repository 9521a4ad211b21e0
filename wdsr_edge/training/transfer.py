"""Beginning with another network's weights: fine-tuning, or a body that was trained at another scale."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .._errors import InputError
from ..config import ModelConfig
from ..models import EDSR, WDSR, fold


def config_of_start(config: ModelConfig, start: ModelConfig) -> ModelConfig:
    """``config`` with all that its name does not say from ``start``, so that the weights mean the same in both.

    Only scale and norm may differ, else InputError. Where the norm does, residual scaling is folded into the weights.
    """
    for name in ("arch", "blocks", "channels"):
        if getattr(config, name) != getattr(start, name):
            raise InputError(f"{config.name} cannot start from {start.name}: {name} differs (only the scale may)")
    res_scale = start.res_scale if config.norm == start.norm else 1.0
    return replace(start, scale=config.scale, norm=config.norm, res_scale=res_scale)


@torch.no_grad()
def transfer(start: EDSR | WDSR, model: EDSR | WDSR) -> list[str]:
    """Copy the weights of ``start`` into ``model``, and return the names of the convolutions that stay as they were.

    Those are the ones behind the body if the scale differs. If the norm differs, ``start`` is folded first. The config
    of ``model`` must be what ``config_of_start`` makes of the two, else InputError.
    """
    if config_of_start(model.config, start.config) != model.config:
        raise InputError(f"{model.config.name} and its start differ in more than scale and norm: use config_of_start")
    bound: tuple[str, ...] = ()
    if start.config.scale != model.config.scale:
        bound = ("upsampler.",) if isinstance(model, EDSR) else ("tail.", "skip.")
    if start.config.norm == model.config.norm:
        taken = {name: tensor for name, tensor in start.state_dict().items() if not name.startswith(bound)}
        model.load_state_dict({**model.state_dict(), **taken})
    else:
        _copy_folded(dict(fold(start).named_modules()), model, bound)
    return [conv.name for conv in model.config.convs if f"{conv.name}.".startswith(bound)]


def _copy_folded(plain: dict[str, nn.Module], model: EDSR | WDSR, bound: tuple[str, ...]) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or f"{name}.".startswith(bound):
            continue
        source = plain[name.removesuffix(".0") if model.config.norm == "batch" else name]
        assert isinstance(source, nn.Conv2d)
        assert source.bias is not None
        assert module.bias is not None
        module.bias.copy_(source.bias)
        if not is_parametrized(module, "weight"):
            module.weight.copy_(source.weight)
            continue
        # g v/|v| has no value at v = 0, so a filter of zeros keeps its direction and gets g = 0.
        dead = source.weight.flatten(1).norm(dim=1) == 0
        module.weight = torch.where(dead.view(-1, 1, 1, 1), module.weight, source.weight)
        gain = dict(module.named_parameters())["parametrizations.weight.original0"]
        gain[dead] = 0
