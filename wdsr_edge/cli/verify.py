"""``wdsr-edge verify``."""

from __future__ import annotations

import importlib.util
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from .._errors import InputError
from .output import (
    DeviceOption,
    EngineOption,
    JsonFlag,
    ModelArgument,
    ThreadsOption,
    decibels,
    print_json,
    print_table,
    say,
)
from .sizes import parse_size


def run(
    model: ModelArgument = "wdsr-b-3x32-x2",
    images: Annotated[
        Path | None, typer.Option(help="Photo or folder to compare on; default: the shipped ones.")
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(help="Check this ONNX file, by the gate of its precision, instead of the bundle's graphs."),
    ] = None,
    engine: EngineOption = None,
    size: Annotated[
        str, typer.Option(help="LR frame that the engine takes, WIDTHxHEIGHT; default: what compile wrote next to it.")
    ] = "",
    device: DeviceOption = 0,
    threads: ThreadsOption = None,
    json: JsonFlag = False,
) -> None:
    """Prove parity: every ONNX precision against the PyTorch reference, in dB and levels; diagnose a failure.

    Without PyTorch a bundle is checked against its golden frame, which the reference made, and so is a compiled engine.
    Exit code 1 if it fails.
    """
    if engine is not None:
        if images or onnx:
            raise InputError("--engine is checked against the golden frame: leave out --images and --onnx")
        reports = [_engine_against_golden(model, engine, size, device)]
    elif size or device:
        raise InputError("--size and --device are for --engine: leave them out")
    elif importlib.util.find_spec("torch") is None and images is None and onnx is None:
        reports = _against_golden(model, threads)
    else:
        reports = _against_torch(model, images, onnx, threads)
    if not reports:
        raise InputError(f"{model} holds no graph that an engine here can run")
    passed = all(report["passed"] for report in reports)
    if json:
        print_json({"model": model, "passed": passed, "precisions": reports})
    else:
        for report in reports:
            rows = [
                (name, decibels(d["psnr_db"]), str(d["max_levels"]), f"{d['share_off']:.4%}")
                for name, d in (*report["images"].items(), ("all", report["total"]))
            ]
            what = f"{report['precision']} in {report['engine']}" if report["engine"] else report["precision"]
            title = f"{what} against {report['against']}: {'passed' if report['passed'] else 'FAILED'}"
            print_table(title, ("image", "PSNR", "max levels", "values off"), rows, files=0)
            if report["diagnosis"]:
                say(f"{report['precision']}: {report['diagnosis']}")
    raise typer.Exit(0 if passed else 1)


def _against_torch(model: str, images: Path | None, onnx: Path | None, threads: int | None) -> list[dict[str, Any]]:
    from wdsr_export import verify

    from ..bundle import Bundle
    from ..images.samples import sample_frames
    from ..loading import find_bundle, is_checkpoint
    from ..models import load_model
    from ..models.reference import use_threads

    if onnx is None and is_checkpoint(model):
        raise InputError(f"{model} is a checkpoint and has no graphs: give one with --onnx, or deploy it first")
    if onnx is not None and not onnx.is_file():
        raise InputError(f"{onnx}: no such file")
    use_threads(threads)
    source = model if onnx is None else onnx
    among = None if onnx is None or is_checkpoint(model) else Bundle.load(find_bundle(model))
    found = verify(load_model(model), source, sample_frames(images), threads=threads, among=among)
    return [
        {
            "precision": parity.graph,
            "engine": parity.engine,
            "against": "the PyTorch reference",
            "passed": parity.passed,
            "images": {name: difference._asdict() for name, difference in parity.images.items()},
            "total": parity.total._asdict(),
            "diagnosis": parity.diagnosis,
            "tried_db": parity.tried,
        }
        for parity in found
    ]


def _engine_against_golden(model: str, engine: Path, size: str, device: int) -> dict[str, Any]:
    from ..backends import GpuOptions, open_session
    from ..backends.tensorrt import profiles_beside
    from ..bundle import Bundle
    from ..choices import graph_of
    from ..loading import find_bundle, fitting
    from ..proof.gates import golden_gate
    from ..proof.golden import golden_difference

    bundle, gpu = Bundle.load(find_bundle(model)), GpuOptions(device, engine=engine)
    (choice, *_) = fitting(bundle, gpu=gpu)
    best = next((f"{one.best.width}x{one.best.height}" for one in profiles_beside(engine)), "")
    if not (size or best):
        raise InputError(f"cannot tell what frames {engine} takes (no .json next to it): give --size")
    height, width = parse_size(size or best)
    graph = graph_of(choice)
    with closing(open_session(choice.backend, bundle.onnx(graph), choice.precision, gpu=gpu)) as session:
        found = golden_difference(bundle, session.run, (1, height, width, 3))
    if found is None:
        raise InputError(f"{width}x{height} is too small a frame to tell anything: give a larger --size")
    return {
        "precision": graph,
        "engine": f"{choice.backend} ({engine.name}, {width}x{height})",
        "against": "the golden frame",
        "passed": golden_gate(graph, bundle.manifest).admits(found),
        "images": {"golden": found._asdict()},
        "total": found._asdict(),
        "diagnosis": "",
    }


def _against_golden(model: str, threads: int | None) -> list[dict[str, Any]]:
    from ..backends import check_backend
    from ..bundle import Bundle
    from ..choices import choices, graph_of
    from ..loading import find_bundle, open_bundle
    from ..proof.gates import check_golden

    check_backend("auto")
    bundle = Bundle.load(find_bundle(model))
    reports = []
    for choice in (*choices(bundle), *choices(bundle, precision="fp16")):
        with open_bundle(bundle, choice, threads=threads) as sr:
            found, passed = check_golden(bundle, graph_of(choice), sr)
        reports.append(
            {
                "precision": graph_of(choice),
                "engine": choice.backend,
                "against": "the golden frame (install the export extra to compare with PyTorch)",
                "passed": passed,
                "images": {"golden": found._asdict()},
                "total": found._asdict(),
                "diagnosis": "",
            }
        )
    return reports
