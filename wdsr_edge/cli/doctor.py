"""``wdsr-edge doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._files import check_folder, replacing
from .benchmark import ROWS, document_of, rows_of
from .output import DeviceOption, JsonFlag, json_text, print_json, print_table, progress_bar, say, stdout
from .sizes import parse_size

if TYPE_CHECKING:
    from ..comparison import Size
    from ..first_run import FirstRun


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
        _self_test(model or zoo_names(), parse_size(size), output, seconds, device, json)
        return
    report = examine()
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
    from ..backends import ON_CPU, GpuOptions, installed
    from ..doctor import examine, try_model
    from ..loading import find_bundle

    check_folder(output.absolute().parent)
    for name in models:
        find_bundle(name)
    found: dict[str, FirstRun] = {}
    with progress_bar() as bar:
        for name in bar.track(models, description="self-test"):
            found[name] = try_model(name, size, GpuOptions(device), seconds)
    document = {
        "machine": examine(),
        "models": {name: _document(one) for name, one in found.items()},
        "passed": all(not timed.fault for one in found.values() for timed in one.timed),
    }
    with replacing(output) as fresh:
        fresh.write_text(json_text(document), encoding="utf-8")
    if json:
        print_json(document)
    else:
        rows = [(name, *row) for name, one in found.items() for row in rows_of(one.timed)]
        print_table("Self-test, host to host", ("model", *ROWS), rows)
    for name, one in found.items():
        for line in [
            f"{timed.choice.backend} {timed.choice.precision}: {timed.fault}" for timed in one.timed if timed.fault
        ]:
            say(f"FAILED: {name} in {line}")
    if {*installed()} <= {*ON_CPU}:
        say("no GPU was tried: none is here, or nothing that runs on it is installed")
    say(f"wrote {output}")
    raise typer.Exit(0 if document["passed"] else 1)


def _document(found: FirstRun) -> dict[str, Any]:
    import dataclasses

    return {
        "choices": document_of(found.timed),
        "slower_int8": found.slower_int8,
        "clocks": dataclasses.asdict(found.clocks),
        "advice": found.clocks.advice,
    }


_SHORT = {"onnxruntime_providers": "provider"}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "no" if value is None else str(value)
