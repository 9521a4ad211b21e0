"""Which precision of convolutions is faster where a run is: measured, as bfloat16 is 7 times slower on some CPUs."""

from __future__ import annotations

import copy
import logging
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from .distributed import World
from .losses import distance
from .recipe import Amp, TrainConfig
from .state import stored_amp

_LOG = logging.getLogger("wdsr_edge")
_TIMED = 3
"""Steps that are timed, behind one that is not."""


def settle_amp(recipe: TrainConfig, model: nn.Module, state: Path, device: torch.device, world: World) -> TrainConfig:
    """``recipe`` with ``amp`` settled if it is ``auto``: as ``state`` has it if the run goes on, else what is faster.

    On a GPU that is bfloat16, or float16 where there is none. On a CPU both are timed; the processes of a run agree.
    """
    if recipe.amp != "auto" or recipe.quantize:
        return replace(recipe, amp="off") if recipe.quantize else recipe
    if state.exists():
        return replace(recipe, amp=stored_amp(state))
    if device.type == "cuda":
        return replace(recipe, amp="bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    ms: dict[Amp, float] = {amp: _ms_of_a_step(recipe, model, amp, device, world) for amp in ("bfloat16", "off")}
    for amp, mean in zip(ms, world.sum(list(ms.values()), device), strict=True):
        ms[amp] = mean / world.size
    fastest = min(ms, key=ms.__getitem__)
    if world.writes:
        _LOG.info("amp is %s: a step takes %.0f ms in bfloat16 and %.0f without", fastest, ms["bfloat16"], ms["off"])
    return replace(recipe, amp=fastest)


def _ms_of_a_step(recipe: TrainConfig, model: nn.Module, amp: Amp, device: torch.device, world: World) -> float:
    """Median ms of forward and backward on a batch of noise, without a change to ``model``."""
    own = copy.deepcopy(model).to(device).train()
    with torch.random.fork_rng(devices=[]):
        lr = torch.rand(recipe.batch // world.size, 3, recipe.patch, recipe.patch, device=device)
    if recipe.channels_last:
        lr = lr.contiguous(memory_format=torch.channels_last)
    taken = []
    for _ in range(1 + _TIMED):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=amp == "bfloat16"):
            sr = own(lr)
        distance(recipe.loss, sr, torch.zeros_like(sr)).backward()  # type: ignore[no-untyped-call]
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken[1:])
