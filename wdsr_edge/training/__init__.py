"""Training and evaluation. Needs the ``train`` extra."""

from .._errors import require

require("torch", "train")

from ..evaluation import Pair, Score, evaluate, load_pairs, mean_score  # noqa: E402
from ..resampler import resize_bicubic  # noqa: E402
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
    "train",
]
