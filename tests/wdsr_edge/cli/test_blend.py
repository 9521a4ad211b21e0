"""``wdsr-edge blend``: a checkpoint between two models."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.command_line import refused
from tests.strategies import trained_like
from tests.wdsr_edge.cli.conftest import Command
from wdsr_edge.config import ModelConfig
from wdsr_edge.models import blend, load_checkpoint, load_model, save_checkpoint

NAME = "wdsr-b-1x32-x2"


def test_a_mix_of_a_zoo_model_and_a_checkpoint(wdsr_edge: Command) -> None:
    other = trained_like(ModelConfig.from_name(NAME))
    save_checkpoint(other, "other.safetensors")
    done = wdsr_edge("blend", NAME, "other.safetensors", "--share", "0.25", "-o", "mixed.safetensors")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"wrote mixed.safetensors: 75% {NAME}, 25% other.safetensors\n"
    expected = blend(load_model(NAME), other, 0.25).state_dict()
    found = load_checkpoint("mixed.safetensors").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_cannot_be_mixed_is_refused_and_nothing_is_written(wdsr_edge: Command) -> None:
    arguments = ["blend", NAME, "wdsr-b-3x32-x2", "-o"]
    refused(wdsr_edge(*arguments, "mixed.safetensors"), "the two networks must be alike: blocks is 1 in one and 3")
    refused(wdsr_edge(*arguments, "mixed.pth"), "--output must end with .safetensors")
    refused(wdsr_edge("blend", NAME, NAME, "--share", "2", "-o", "mixed.safetensors"), "share must be from 0 to 1")
    refused(wdsr_edge("blend", NAME, "nobody", "-o", "mixed.safetensors"), "nobody")
    assert not Path("mixed.safetensors").exists()
