"""``wdsr-edge compile``."""

from __future__ import annotations

import dataclasses
import hashlib
import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from .._errors import InputError, WdsrError
from .._files import check_folder, replacing
from ..bundle import Bundle, Precision, onnx_name
from .output import BundleArgument, JsonFlag, print_json, print_table, progress_bar, say
from .sizes import parse_size

if TYPE_CHECKING:
    from ..backends.audit import Audit
    from ..backends.engine_build import Built
    from ..backends.engine_config import EngineConfig, Profile
    from ..targets import Target


def run(
    model: BundleArgument,
    target: Annotated[list[str], typer.Option(help="Device to compile for, such as rtx-4090; may be repeated.")],
    precision: Annotated[
        list[str] | None, typer.Option(help=r"fp32, fp16 or int8; may be repeated. \[all that the bundle has]")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="LR frame of a camera mode, WIDTHxHEIGHT; may be repeated. [480x270]")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Any frame from MIN to MAX, fastest at BEST: MIN,BEST,MAX as sizes.")
    ] = None,
    portrait: Annotated[bool, typer.Option("--portrait", help="Take each size on its side as well.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the engines.")] = Path("engines"),
    workspace: Annotated[
        int | None, typer.Option(help=r"MiB for kernels, and with TensorRT for RTX for activations. \[no limit]")
    ] = None,
    optimization: Annotated[int, typer.Option(help="How long to look for fast kernels, 0 to 5.")] = 3,
    aux_streams: Annotated[int | None, typer.Option(help="Streams for kernels beside the engine's own.")] = None,
    tiling: Annotated[str, typer.Option(help="Tiling in the L2 cache: none, fast, moderate or full.")] = "none",
    l2_limit: Annotated[int | None, typer.Option(help="MiB of L2 cache for tiling.")] = None,
    json: JsonFlag = False,
) -> None:
    """Compile a bundle's graphs for another machine, with no GPU at hand, and check what each layer computes in.

    TensorRT for RTX does that for GeForce and most server GPUs. For a Jetson or an H100, which compile for themselves,
    this prints what to run there. An engine is native code: load only what you have compiled.
    """
    from ..backends.engine_config import EngineConfig
    from ..loading import find_bundle
    from ..targets import find_target

    bundle = Bundle.load(find_bundle(model))
    kinds = _kinds(bundle, precision)
    profiles = _profiles(size, profile, portrait)
    config = EngineConfig(profiles, workspace, optimization, aux_streams, cast(Any, tiling), l2_limit)
    targets = [find_target(name) for name in dict.fromkeys(target)]
    on_device = {one.name: _commands(bundle, kinds, one, config) for one in targets if one.library == "tensorrt"}
    here = [one for one in targets if one.library != "tensorrt"]
    if here:
        check_folder(output, keep=False)
    made: list[dict[str, Any]] = []
    try:
        for device in here:
            for kind in kinds:
                made.append(_compile(bundle, kind, device, dataclasses.replace(config, sm=(device.sm,)), output))
    except WdsrError:
        if made and not json:
            _print(bundle, made, {})
        raise
    if json:
        print_json({"model": bundle.name, "engines": made, "on_device": on_device})
    else:
        _print(bundle, made, on_device)
    for entry in made:
        if entry["widened"]:
            say(
                f"{entry['precision']} for {entry['target']}: {len(entry['widened'])} INT8 convolutions hand on FP32, "
                "which another layer rounds, so that fp16 may be faster: time both"
            )
        if entry["faults"]:
            others = f" (and {len(entry['faults']) - 1} more)" if entry["faults"][1:] else ""
            say(f"{entry['precision']} for {entry['target']} was not written: {entry['faults'][0]}{others}")
    if any(entry["faults"] for entry in made):
        raise typer.Exit(1)


def _kinds(bundle: Bundle, asked: Sequence[str] | None) -> list[Precision]:
    held = [kind for kind in get_args(Precision) if kind in bundle.graphs]
    if not held:
        raise InputError(f"{bundle.path} holds no graph for TensorRT: deploy the model again")
    for kind in asked or ():
        if kind not in get_args(Precision):
            raise InputError(f"--precision must be fp32, fp16 or int8, got {kind!r}")
        if kind not in held:
            raise InputError(f"{bundle.path} holds no {kind}: it holds {', '.join(held)}")
    return [kind for kind in held if not asked or kind in asked]


def _profiles(sizes: Sequence[str] | None, ranges: Sequence[str] | None, portrait: bool) -> tuple[Profile, ...]:
    from ..backends.engine_config import Profile, Shape

    found = [Profile.static(*parse_size(text)) for text in sizes or (() if ranges else ("480x270",))]
    for text in ranges or ():
        parts = text.split(",")
        if len(parts) != 3:
            raise InputError(f"{text!r} is no profile: expected MIN,BEST,MAX, such as 64x64,480x270,1280x720")
        found.append(Profile(*(Shape(1, *parse_size(part)) for part in parts)))
    turned = [profile.rotated() for profile in found] if portrait else []
    return tuple(dict.fromkeys([*found, *turned]))


def _compile(bundle: Bundle, kind: Precision, device: Target, config: EngineConfig, folder: Path) -> dict[str, Any]:
    """Build, audit, and write the engine with what it is; nothing is written if the audit fails."""
    from ..backends.audit import audit
    from ..backends.build_process import build_apart
    from ..backends.tensorrt_library import open_library

    onnx = bundle.onnx(kind)
    version = open_library(device.library).__version__
    shapes = "_".join(map(str, config.profiles))
    onnx_sha256 = hashlib.sha256(onnx).hexdigest()
    request = json_module.dumps([onnx_sha256, config.as_dict()])
    identity = hashlib.sha256(request.encode()).hexdigest()[:8]
    path = folder / f"{bundle.name}-{kind}-{shapes}-{device.name}-{device.library}-{version}-{identity}.engine"
    if len(path.name) > 200:
        raise InputError(f"too many sizes for the name of one engine: {path.name[:100]}...: compile fewer at a time")
    what = f"{device.name} {kind}"
    say(f"compiling {bundle.name} in {kind} for {device.device}")
    with progress_bar() as bar:
        task = bar.add_task(what, total=None)
        built = build_apart(
            device.library,
            onnx,
            config,
            precision=kind,
            on_progress=lambda phase, done, total: bar.update(task, description=phase, completed=done, total=total),
            on_retry=lambda reason: say(f"{what}: {reason}"),
        )
    found = audit(onnx, built.layers, len(config.profiles))
    entry = _entry(kind, device, config, built, found) | {"onnx_sha256": onnx_sha256}
    if found.passed:
        entry["engine"] = str(_write(path, built, entry | {"library": f"{device.library} {version}"}))
    return entry


def _entry(kind: Precision, device: Target, config: EngineConfig, built: Built, found: Audit) -> dict[str, Any]:
    return {
        "target": device.name,
        "precision": kind,
        "engine": None,
        "bytes": len(built.engine),
        "sha256": hashlib.sha256(built.engine).hexdigest(),
        "seconds": round(built.seconds, 3),
        "config": config.as_dict(),
        "convolutions": found.convolutions,
        "faults": list(found.faults),
        "reformats": list(found.reformats),
        "widened": list(found.widened),
    }


def _write(path: Path, built: Built, entry: dict[str, Any]) -> Path:
    for target, data in (
        (path, built.engine),
        (path.with_suffix(".json"), json_module.dumps(entry | {"engine": path.name}, indent=2).encode() + b"\n"),
    ):
        with replacing(target) as fresh:
            fresh.write_bytes(data)
    return path


def _commands(bundle: Bundle, kinds: Sequence[Precision], device: Target, config: EngineConfig) -> list[str]:
    """A line for each precision, to be run in the folder that the bundle was copied into."""
    from ..targets import trtexec_line

    folder = bundle.path.resolve().name
    shapes = "_".join(map(str, config.profiles))
    return [
        trtexec_line(f"{folder}/{onnx_name(kind)}", f"{bundle.name}-{kind}-{shapes}-{device.name}.engine", config)
        for kind in kinds
    ]


def _print(bundle: Bundle, made: Sequence[dict[str, Any]], on_device: dict[str, list[str]]) -> None:
    from ..targets import find_target

    rows = [
        (
            entry["target"],
            entry["precision"],
            f"{entry['bytes'] / 1e6:.2f} MB",
            f"{entry['seconds']:.1f} s",
            f"{entry['convolutions'] - len(entry['faults'])} of {entry['convolutions']}",
            entry["engine"] or "not written",
        )
        for entry in made
    ]
    if rows:
        header = ("target", "precision", "engine", "built in", "convs as asked", "file")
        print_table(f"{bundle.name}, compiled with TensorRT for RTX", header, rows)
    for name, lines in on_device.items():
        say(f"{find_target(name).device} compiles for itself, with TensorRT; run there, beside a copy of the bundle:")
        for line in lines:
            print(line)
