"""What quantisation costs: dB of PSNR on luma to ground truth, over held-out images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from wdsr_edge.evaluation import Pair, Upscale, psnr_y
from wdsr_edge.models import reference

from .network import Network
from .placement import Placement


def mean_psnr_y(upscale: Upscale, pairs: Sequence[Pair]) -> float:
    """PSNR on luma of ``upscale``, dB, the mean over ``pairs``."""
    return sum(psnr_y(pair, upscale(pair.lr)) for pair in pairs) / len(pairs)


class Drop:
    """Measures placements of networks against ``target``, the unquantised model, on ``held_out``."""

    def __init__(self, target: nn.Module, held_out: Sequence[Pair]) -> None:
        self.held_out = held_out
        self.base = mean_psnr_y(reference(target), held_out)

    def __call__(self, network: Network, placement: Placement) -> float:
        """dB lost, the mean over the images; negative if the quantised network happens to be better."""
        placement.apply(network)
        return self.base - mean_psnr_y(reference(network), self.held_out)
