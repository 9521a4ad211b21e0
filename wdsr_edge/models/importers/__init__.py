"""Importers of the WDSR and EDSR weights of other projects: Keras HDF5, PyTorch and safetensors state dicts."""

from .conventions import CONVENTIONS, Convention
from .imported import Imported, import_model, import_weights, renormalised

__all__ = ["CONVENTIONS", "Convention", "Imported", "import_model", "import_weights", "renormalised"]
