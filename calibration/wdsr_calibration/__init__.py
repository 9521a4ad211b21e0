"""INT8 calibration. Not built yet in this version."""

__all__: list[str] = []
