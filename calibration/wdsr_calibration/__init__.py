"""INT8: calibration sets, ranges, rounding and the budget search; and the INT8 and FP16 graphs. Needs ``export``."""

from wdsr_edge._errors import require

require("torch", "export")
require("onnx_ir", "export")

from .calibrate import Calibration, CalibrationConfig, Fitted, calibrate, fit  # noqa: E402
from .drop import Budget, Loss  # noqa: E402
from .float16 import to_float16  # noqa: E402
from .learning import LearningConfig  # noqa: E402
from .placement import Placement  # noqa: E402
from .qdq import Form, Quantised, insert_qdq  # noqa: E402
from .samples import CalibrationSet, SampleConfig, sample_folders, sample_manifest  # noqa: E402

__all__ = [
    "Budget",
    "Calibration",
    "CalibrationConfig",
    "CalibrationSet",
    "Fitted",
    "Form",
    "LearningConfig",
    "Loss",
    "Placement",
    "Quantised",
    "SampleConfig",
    "calibrate",
    "fit",
    "insert_qdq",
    "sample_folders",
    "sample_manifest",
    "to_float16",
]
