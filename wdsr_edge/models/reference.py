"""The PyTorch reference that every export is measured against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backends import thread_count


def reference(model: nn.Module) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """``model`` as uint8 HWC RGB to uint8 HWC RGB: float32 in eval mode, rounded and clipped at the end.

    It computes where the model's weights are, so on the CPU for a model that was just loaded.
    """
    device = next(model.parameters()).device

    @torch.inference_mode()
    def upscale(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        model.eval()
        image: NDArray[np.uint8] = to_image(model(to_tensor(frame[None]).to(device)).cpu())[0]
        return image

    return upscale


def use_threads(threads: int | None) -> None:
    """Compute with so many threads from now on; None is what WDSR_EDGE_THREADS says, else as many as before."""
    count = thread_count(threads)
    if count:
        torch.set_num_threads(count)


def to_tensor(batch: NDArray[np.uint8]) -> Tensor:
    """uint8 NHWC to float32 NCHW in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))).float() / 255


def to_image(batch: Tensor) -> NDArray[np.uint8]:
    """Float NCHW in [0, 1] to uint8 NHWC, rounded and clipped."""
    levels = (batch.float() * 255).round().clamp(0, 255).to(torch.uint8)
    image: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().numpy()
    return image
