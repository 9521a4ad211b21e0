"""TensorRT and TensorRT for RTX: engines built, kept, audited and run. Other packages import from here alone."""

from .ahead_of_time import commands_for, compile_for
from .audit import Audit
from .build import check_config
from .build_process import python_environment
from .config import EngineConfig, Library, Profile, Shape
from .cuda import Cuda
from .engines import open_device_session, profiles_beside, read_beside
from .library import MODULES, open_library, version_of
from .targets import Target, find_target

__all__ = [
    "MODULES",
    "Audit",
    "Cuda",
    "EngineConfig",
    "Library",
    "Profile",
    "Shape",
    "Target",
    "check_config",
    "commands_for",
    "compile_for",
    "find_target",
    "open_device_session",
    "open_library",
    "profiles_beside",
    "python_environment",
    "read_beside",
    "version_of",
]
