"""The networks in PyTorch: configs, EDSR and WDSR, folding and checkpoints. Needs the ``train`` extra."""

from .._errors import require

require("torch", "train")
require("safetensors", "train")

from ..config import ModelConfig  # noqa: E402
from .blending import blend  # noqa: E402
from .build import build  # noqa: E402
from .checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from .edsr import EDSR  # noqa: E402
from .folding import fold  # noqa: E402
from .importers import import_weights  # noqa: E402
from .reference import reference  # noqa: E402
from .source import load_model  # noqa: E402
from .wdsr import WDSR  # noqa: E402

__all__ = [
    "EDSR",
    "WDSR",
    "ModelConfig",
    "blend",
    "build",
    "fold",
    "import_weights",
    "load_checkpoint",
    "load_model",
    "reference",
    "save_checkpoint",
]
