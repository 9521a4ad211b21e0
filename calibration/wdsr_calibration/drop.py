"""What quantisation costs: dB of PSNR on luma to ground truth, over held-out images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from wdsr_edge.evaluation import Pair, psnr_y
from wdsr_edge.models import reference

from .network import Network
from .placement import Placement


class Drop:
    """Measures placements of networks against ``target``, the unquantised model, on ``held_out``."""

    def __init__(self, target: nn.Module, held_out: Sequence[Pair]) -> None:
        self.held_out = held_out
        self.base = self._psnr(target)

    def __call__(self, network: Network, placement: Placement) -> float:
        """dB lost, the mean over the images; negative if the quantised network happens to be better."""
        placement.apply(network)
        return self.base - self._psnr(network)

    def _psnr(self, network: nn.Module) -> float:
        upscale = reference(network)
        with torch.inference_mode():
            found = [psnr_y(pair, upscale(pair.lr)) for pair in self.held_out]
        return sum(found) / len(found)
