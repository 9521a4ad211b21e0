"""Random networks for property tests, small enough to build by the hundred."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

from wdsr_edge.images.samples import golden_frame
from wdsr_edge.models import EDSR, WDSR, ModelConfig, build
from wdsr_edge.models.reference import to_tensor

ARCHS = ("edsr", "wdsr-a", "wdsr-b")
NORMS = ("weight", "batch", "none")
SCALES = (2, 3, 4)


@st.composite
def configs(draw: st.DrawFn, /, **fixed: Any) -> ModelConfig:
    """A small ModelConfig of any kind; ``fixed`` fields are not drawn."""
    values: dict[str, Any] = {
        "arch": draw(st.sampled_from(ARCHS)),
        "blocks": draw(st.integers(1, 3)),
        "channels": draw(st.sampled_from((4, 8, 12))),
        "scale": draw(st.sampled_from(SCALES)),
        "expansion": draw(st.integers(0, 3)),
        "low_rank": draw(st.sampled_from((0.3, 0.5, 0.8, 1.0))),
        "norm": draw(st.sampled_from((*NORMS, "auto"))),
        "expansion_conv": draw(st.sampled_from(("dense", "group", "depthwise"))),
        "mean": draw(st.sampled_from(((0.4488, 0.4371, 0.4040), (0.0, 0.0, 0.0), (0.1, 0.9, 0.5)))),
        "std": draw(st.sampled_from((0.5, 1.0, 0.25))),
        "res_scale": draw(st.sampled_from((1.0, 0.1, 0.37))),
        **fixed,
    }
    if values["arch"] == "edsr":
        values["expansion"] = 0
    return ModelConfig(**values)


def trained_like(config: ModelConfig, seed: int = 0) -> EDSR | WDSR:
    """A network whose every weight, norm and running statistic is far from its initial value, in eval mode."""
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("original0"):  # weight norm's g
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
            elif name.endswith("bias"):
                parameter.uniform_(-0.3, 0.3)
            else:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.8))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-1.2, 1.2)
        model.train()
        batch = to_tensor(golden_frame()[None, :32, :32])
        for contrast in (1.0, 0.6, 0.8):
            model(batch * contrast)
    return model.eval()
