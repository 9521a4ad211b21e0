"""``wdsr-edge doctor``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._files import check_folder, replacing
from .benchmark import ROWS, document_of, rows_of
from .output import DeviceOption, JsonFlag, json_text, print_json, print_table, progress_bar, say, stdout
from .sizes import parse_size

if TYPE_CHECKING:
    from ..measuring.comparison import Size


def run(
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Run every model in every engine and precision, and write a report.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Report of the self-test, to attach to an issue.")
    ] = Path("wdsr-edge-self-test.json"),
    model: Annotated[
        list[str] | None, typer.Option(help=r"In the self-test; may be repeated. \[all that are found by name]")
    ] = None,
    size: Annotated[str, typer.Option(help="LR frame of the self-test, WIDTHxHEIGHT.")] = "480x270",
    seconds: Annotated[float, typer.Option(min=0.0, max=60.0, help="Time for each in the self-test.")] = 1.0,
    device: DeviceOption = 0,
    json: JsonFlag = False,
) -> None:
    """Tell what this machine has (engines that really work, GPU, CPU, memory) and what to install.

    The self-test compiles every model that ships for the GPU, if there is one, checks each against its golden frame,
    and times frames host to host, in a stream, and in a bare loop of the engine alone. Exit code 1 if anything fails.
    """
    from ..doctor import examine
    from ..loading import zoo_names

    if self_test:
        _self_test([*dict.fromkeys(model or zoo_names())], parse_size(size), output, seconds, device, json)
        return
    report = examine(device)
    if json:
        print_json(report)
        return
    advice = report.pop("advice")
    rows = []
    for key, value in report.items():
        if isinstance(value, dict):
            shown = {name: item for name, item in value.items() if key != "power" or item}
            rows += [(f"{_SHORT.get(key, key)}: {name}", _text(item)) for name, item in shown.items()]
        else:
            rows.append((key, _text(value)))
    print_table("This machine", ("what", "found"), rows, figures=False)
    for line in advice or ["nothing to install"]:
        stdout.print(f"- {line}", markup=False)


def _self_test(models: list[str], size: Size, output: Path, seconds: float, device: int, json: bool) -> None:
    """Writes the report after each model; each of several has a process of its own, for which a GPU may be lost."""
    from ..backends import ON_CPU, GpuOptions, installed
    from ..bundle import Bundle
    from ..doctor import examine
    from ..loading import find_bundle, fitting

    check_folder(output.absolute().parent)
    found = [find_bundle(name) for name in models]
    if device and found:
        fitting(Bundle.load(found[0]), gpu=GpuOptions(device))
    tried: dict[str, Any] = {}
    gpu = not {*installed()} <= {*ON_CPU}
    document = {"machine": examine(device), "gpu_tried": gpu, "models": tried, "untried": [*models], "passed": False}
    with progress_bar() as bar:
        for name in bar.track(models, description="self-test"):
            try_one = _try_apart if models[1:] else _try
            tried[name] = try_one(name, size, seconds, device)
            document["untried"] = models[len(tried) :]
            if not document["untried"]:
                document["passed"] = not any(_faults(one) for one in tried.values())
            with replacing(output) as fresh:
                fresh.write_text(json_text(document), encoding="utf-8")
    if json:
        print_json(document)
    else:
        rows = [(name, *row) for name, one in tried.items() for row in rows_of(one["choices"])]
        print_table("Self-test, host to host", ("model", *ROWS), rows)
    for name, one in tried.items():
        for line in _faults(one):
            say(f"FAILED: {name} in {line}")
    if not gpu:
        say("no GPU was tried: none is here, or nothing that runs on it is installed")
    say(f"wrote {output}")
    raise typer.Exit(0 if document["passed"] else 1)


def _try(name: str, size: Size, seconds: float, device: int) -> dict[str, Any]:
    """Report of one model."""
    import dataclasses

    from ..backends import GpuOptions
    from ..doctor import try_model

    found = try_model(name, size, GpuOptions(device), seconds)
    return {
        "choices": document_of(found.timed),
        "slower_int8": found.slower_int8,
        "clocks": dataclasses.asdict(found.clocks),
        "advice": found.clocks.advice,
        "fault": "",
    }


def _try_apart(name: str, size: Size, seconds: float, device: int) -> dict[str, Any]:
    """The same, in another process, which may crash."""
    from ..backends.tensorrt import python_environment
    from ..loading import find_bundle

    height, width = size
    command = [
        *(sys.executable, "-m", "wdsr_edge", "doctor", "--self-test", "--json", "--output", "report.json"),
        *("--model", str(find_bundle(name).absolute()), "--size", f"{width}x{height}"),
        *("--seconds", str(seconds), "--device", str(device)),
    ]
    pipe, env, last = subprocess.PIPE, python_environment(), "it said nothing"
    with (
        tempfile.TemporaryDirectory(prefix="wdsr-edge-") as folder,
        tempfile.TemporaryFile("w+", encoding="utf-8") as said,
        subprocess.Popen(
            command, cwd=folder, env=env, stdout=said, stderr=pipe, encoding="utf-8", errors="replace"
        ) as child,
    ):
        assert child.stderr is not None
        for line in child.stderr:
            last = line.strip() or last
            if last != "wrote report.json":
                say(last)
        child.wait()
        said.seek(0)
        document = said.read()
    try:
        (found,) = loads(document)["models"].values()
    except (ValueError, KeyError):
        return {"choices": [], "fault": f"a process that ended with {child.returncode}: {last[:300]}"}
    return dict(found)


def _faults(tried: dict[str, Any]) -> list[str]:
    """A line for each way in which a model does not run."""
    lines = [f"{one['backend']} {one['precision']}: {one['fault']}" for one in tried["choices"] if one["fault"]]
    return [*lines, *([tried["fault"]] if tried["fault"] else [])]


_SHORT = {"onnxruntime_providers": "provider"}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "no" if value is None else str(value)
