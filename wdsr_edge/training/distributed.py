"""The processes of a run: one, or those that torchrun started. Devices as well, for each process has its own."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from .._errors import BackendError, InputError


def open_device(name: str = "auto") -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``; InputError if this machine has none such."""
    local, size = _number("LOCAL_RANK", 0), _number("WORLD_SIZE", 1)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and size > 1:
        name = f"cuda:{local}"
    match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,6}))?", name)
    if match is None:
        raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if name != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise InputError(f"no device {name}: torch sees {torch.cuda.device_count()} GPUs here")
    return torch.device(name)


def _number(name: str, least: int) -> int:
    """A variable that torchrun sets; ``least`` if it is not set. InputError for an impossible value."""
    text = os.environ.get(name, "").strip() or str(least)
    if re.fullmatch("[0-9]{1,6}", text) is None or int(text) < least:
        raise InputError(
            f"{name} in the environment must be a whole number from {least} up, got {text[:30]!r}: unset it"
        )
    return int(text)


@dataclass(frozen=True)
class World:
    """The processes that train one network together; every one sees the same number of each batch's patches."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """True if this is the one process that writes files and reports."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of ``count`` things are this process's."""
        return slice(self.rank, count, self.size)

    def sum(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The sums of ``values`` over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join_world(device: torch.device) -> Iterator[World]:
    """The world that torchrun describes in the environment, else this process alone; left at the end.

    Batch norm sees the whole batch on GPUs, and each process's own share of it on CPUs. Raises BackendError if the
    processes cannot meet, or where one of them stops.
    """
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    if rank >= size:
        raise InputError(f"RANK is {rank}, which is not below WORLD_SIZE, {size}: start processes with torchrun")
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:  # the first process may decode a large set of images while the others wait for it
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=6))
    except (ValueError, RuntimeError) as error:
        raise BackendError(f"the {size} processes cannot meet ({error}): start them with torchrun") from error
    try:
        yield World(distributed.get_rank(), size)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0][:200]
        raise BackendError(
            f"another process of this run stopped, see what it said, or torch failed ({reason})"
        ) from error
    finally:
        gc.collect()  # DistributedDataParallel in a cycle would keep gloo's threads, which abort a process that ends
        distributed.destroy_process_group()
