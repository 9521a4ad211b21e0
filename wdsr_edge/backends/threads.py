"""Number of threads a CPU backend computes with."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from .._errors import InputError

THREADS_VARIABLE = "WDSR_EDGE_THREADS"

MOST_THREADS = 1024


def thread_count(threads: Any = None) -> int:
    """``threads`` (an integer), else what WDSR_EDGE_THREADS says, else 0, which leaves it to the backend.

    Raises InputError for anything but None or an integer from 1 to 1024.
    """
    wanted = f"an integer from 1 to {MOST_THREADS}"
    if threads is None:
        text = os.environ.get(THREADS_VARIABLE, "").strip()
        if not text:
            return 0
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_THREADS:
            raise InputError(f"the environment variable {THREADS_VARIABLE} must be {wanted}, got {text[:100]!r}")
        return int(text)
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads must be {wanted}, or None to leave it to the backend, got {str(threads)[:100]!r}")
    return int(threads)
