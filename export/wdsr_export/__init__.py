"""Graphs: export, passes, parity, and ``deploy``, which ties everything together. Needs the ``export`` extra."""

from wdsr_edge._errors import require

require("torch", "export")
require("onnx_ir", "export")

from .onnx_file import export_onnx  # noqa: E402

__all__ = ["export_onnx"]
