"""Training and evaluation. Needs the ``train`` extra."""

from .._errors import require

require("torch", "train")

from ..resampler import resize_bicubic  # noqa: E402
from .data import Pair, load_pairs  # noqa: E402
from .evaluate import Score, evaluate, mean_score, torch_upscale  # noqa: E402
from .train import Progress, TrainConfig, train  # noqa: E402

__all__ = [
    "Pair",
    "Progress",
    "Score",
    "TrainConfig",
    "evaluate",
    "load_pairs",
    "mean_score",
    "resize_bicubic",
    "torch_upscale",
    "train",
]
