"""Graphs: export, passes, parity, and ``deploy``, which ties everything together. Needs the ``export`` extra."""

from wdsr_edge._errors import require

require("torch", "export")
require("onnx_ir", "export")

from .int8 import Int8, quantise  # noqa: E402
from .onnx_file import export_onnx  # noqa: E402
from .parity import Parity, check_parity, verify  # noqa: E402
from .pipeline import Deployment, deploy  # noqa: E402

__all__ = ["Deployment", "Int8", "Parity", "check_parity", "deploy", "export_onnx", "quantise", "verify"]
