"""Training. Needs the ``train`` extra."""

from .._errors import require

require("torch", "train")

from ..data.pairs import Pair  # noqa: E402
from ..images.resampler import resize_bicubic  # noqa: E402
from .cache import ImageCache  # noqa: E402
from .data import open_pairs  # noqa: E402
from .distributed import World, join_world, open_device  # noqa: E402
from .recipe import TrainConfig  # noqa: E402
from .state import Progress  # noqa: E402
from .train import Student, check_run, train  # noqa: E402
from .transfer import config_of_start  # noqa: E402

__all__ = [
    "ImageCache",
    "Pair",
    "Progress",
    "Student",
    "TrainConfig",
    "World",
    "check_run",
    "config_of_start",
    "join_world",
    "open_device",
    "open_pairs",
    "resize_bicubic",
    "train",
]
