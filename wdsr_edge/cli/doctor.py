"""``wdsr-edge doctor``."""

from __future__ import annotations

from .output import JsonFlag, print_json, print_table, stdout


def run(json: JsonFlag = False) -> None:
    """Tell what this machine has (engines that really work, CPU, memory) and what to install."""
    from ..doctor import examine

    report = examine()
    if json:
        print_json(report)
        return
    advice = report.pop("advice")
    rows = []
    for key, value in report.items():
        if isinstance(value, dict):
            rows += [(f"{_SHORT.get(key, key)}: {name}", _text(item)) for name, item in value.items()]
        else:
            rows.append((key, _text(value)))
    print_table("This machine", ("what", "found"), rows, figures=False)
    for line in advice or ["nothing to install"]:
        stdout.print(f"- {line}", markup=False)


_SHORT = {"onnxruntime_providers": "provider"}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "no" if value is None else str(value)
