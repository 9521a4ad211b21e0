"""``wdsr-edge compile``."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from .._errors import BackendError, InputError, WdsrError
from .._files import check_folder
from .benchmark import ROWS, auto_now, document_of, keep_fastest, rows_of, say_faults
from .output import BundleArgument, DeviceOption, JsonFlag, build_bar, print_json, print_table, printable, say, stdout
from .sizes import parse_size

if TYPE_CHECKING:
    from ..backends.tensorrt import EngineConfig, Library, Profile, Target
    from ..bundle import Bundle, Precision
    from ..measuring.comparison import Timed


def run(
    model: BundleArgument,
    target: Annotated[
        list[str] | None,
        typer.Option(help=r"Another device, such as rtx-4090; may be repeated. \[the GPU of this machine]"),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help=r"fp32, fp16 or int8; may be repeated. \[all that the bundle has]")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help=r"LR frame of a camera mode, WIDTHxHEIGHT; may be repeated. \[480x270]")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Any frame from MIN to MAX, fastest at BEST: MIN,BEST,MAX as sizes.")
    ] = None,
    portrait: Annotated[bool, typer.Option("--portrait", help="Take each size on its side as well.")] = False,
    backend: Annotated[
        str, typer.Option(help=r"On this machine: tensorrt or tensorrt-rtx. \[all that are installed]")
    ] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for engines of other devices.")] = Path(
        "engines"
    ),
    workspace: Annotated[
        int | None,
        typer.Option(help=r"MiB for kernels, and with TensorRT for RTX for activations. \[half of what is free]"),
    ] = None,
    optimization: Annotated[int, typer.Option(help="How long to look for fast kernels, 0 to 5.")] = 3,
    aux_streams: Annotated[int | None, typer.Option(help="Streams for kernels beside the engine's own.")] = None,
    tiling: Annotated[str, typer.Option(help="Tiling in the L2 cache: none, fast, moderate or full.")] = "none",
    l2_limit: Annotated[int | None, typer.Option(help="MiB of L2 cache for tiling.")] = None,
    hardware: Annotated[
        str, typer.Option(help="Other GPUs to run on as well: this, same-compute-capability or ampere-plus.")
    ] = "this",
    dla: Annotated[int | None, typer.Option(help="DLA core to run on, in FP16, with the GPU for the rest.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, max=3600.0, help="Time for each size.")] = 2.0,
    device: DeviceOption = 0,
    json: JsonFlag = False,
) -> None:
    """Compile a bundle's graphs, check what each layer computes in, and on this machine's GPU prove and time them.

    Without --target this is a GPU's first run: engines go into the cache, from where load takes them, reproduce the
    golden frame, and are timed; the fastest is what auto then means here. With --target, TensorRT for RTX compiles for
    GeForce and most server GPUs with no GPU at hand; for a Jetson or an H100, which compile for themselves, this prints
    what to run there. An engine is native code: load only what you have compiled.
    """
    from ..backends.tensorrt import EngineConfig
    from ..bundle import Bundle
    from ..loading import find_bundle

    bundle = Bundle.load(find_bundle(model))
    kinds = _kinds(bundle, precision)
    profiles = _profiles(size, profile, portrait)
    config = EngineConfig(
        profiles, workspace, optimization, aux_streams, cast(Any, tiling), l2_limit, cast(Any, hardware), dla
    )
    if target:
        if backend != "auto" or device:
            raise InputError("--backend and --device are for this machine's GPU: leave them out with --target")
        _compile_for_others(bundle, kinds, config, target, output, json)
    else:
        _compile_here(bundle, kinds, config, backend, device, seconds, bool(precision), json)


def _compile_here(
    bundle: Bundle,
    kinds: Sequence[Precision],
    config: EngineConfig,
    backend: str,
    device: int,
    seconds: float,
    narrowed: bool,
    json: bool,
) -> None:
    """An engine of its own for each shape, which is what runs fastest, or one for a profile."""
    from ..backends import COMPILED, GpuOptions, check_backend, installed
    from ..backends.tensorrt import Cuda, check_config, open_library, version_of
    from ..choices import choices
    from ..measuring.first_run import first_run

    check_backend(backend)  # type: ignore[arg-type]
    if backend != "auto" and backend not in COMPILED:
        raise InputError(f"--backend must be one of {', '.join(COMPILED)}, got {backend}: the others compile nothing")
    among = [choice for choice in choices(bundle, backend) if choice.backend in COMPILED]  # type: ignore[arg-type]
    among = [choice for choice in among if choice.precision in kinds]
    if not among:
        raise BackendError(
            f"nothing here compiles for a GPU (there is {', '.join(installed()) or 'no engine'}): "
            "name another device with --target, or see wdsr-edge doctor"
        )
    configs = [dataclasses.replace(config, profiles=(one,)) for one in config.profiles]
    for best, number in Counter(one.best for one in config.profiles).items():
        if number > 1:
            raise InputError(f"two engines for {best.width}x{best.height} cannot be told apart: compile one at a time")
    for library in dict.fromkeys(choice.backend for choice in among):
        for kind, one in itertools.product(kinds, configs):
            check_config(cast("Library", library), version_of(open_library(cast("Library", library))), one, kind)
    Cuda(device)
    with build_bar() as on_progress:
        gpu = GpuOptions(device, in_full=True, on_progress=on_progress)
        found = first_run(bundle, among, configs, gpu=gpu, seconds=seconds)
    clocks = dataclasses.asdict(found.clocks)
    faults = [bool(one.fault) for one in found.timed]
    if not narrowed and backend == "auto" and not device and not all(faults):
        keep_fastest(bundle, found.timed)
    auto = auto_now(bundle)
    if json:
        document = {"model": bundle.name, "choices": document_of(found.timed), "clocks": clocks}
        document["auto"] = auto.document()
        print_json({**document, "slower_int8": found.slower_int8, "advice": found.clocks.advice})
    else:
        print_table(f"{bundle.name}, compiled and timed host to host", ROWS, rows_of(document_of(found.timed)))
        _print_engines(found.timed)
        read = ", ".join(f"{name} {value}" for name, value in clocks.items() if value)
        stdout.print(f"Clocks at work: {read or 'nothing here tells them'}", markup=False)
    say_faults(found.timed)
    compiled = {profile for one in found.timed for report in one.reports for profile in report.config.profiles}
    for profile in config.profiles:
        if compiled and profile not in compiled:
            say(f"{profile} is too large for one window: it was timed in tiles, with an engine for those")
    for line in (*found.slower_int8, *found.clocks.advice):
        say(line)
    say(str(auto))
    if any(faults):
        raise typer.Exit(1)


def _print_engines(timed: Sequence[Timed]) -> None:
    rows = [
        (
            " ".join(one.choice),
            " and ".join(map(str, report.config.profiles)),
            f"{report.size / 1e6:.2f} MB",
            f"{report.seconds:.1f} s{'' if report.built else ' (cached)'}",
            f"{report.audit.convolutions - len(report.audit.faults)} of {report.audit.convolutions}",
            str(len(report.audit.widened)),
            ", ".join(report.audit.reformats) or "none",
        )
        for one in timed
        for report in one.reports
    ]
    header = ("engine", "frames", "size", "built in", "convs as asked", "INT8 to FP32", "reformat layers")
    print_table("Engines", header, rows, figures=False)


def _compile_for_others(
    bundle: Bundle, kinds: Sequence[Precision], config: EngineConfig, target: Sequence[str], output: Path, json: bool
) -> None:
    from ..backends.tensorrt import commands_for, find_target

    targets = [find_target(name) for name in dict.fromkeys(target)]
    on_device = {one.name: commands_for(bundle, kinds, one, config) for one in targets if one.library == "tensorrt"}
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
        if entry["lighter"]:
            say(f"{entry['precision']} for {entry['target']} was built with less, as at first {entry['lighter']}")
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
    from ..bundle import Precision

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
    from ..backends.tensorrt import Profile, Shape

    found = [Profile.static(*parse_size(text)) for text in sizes or (() if ranges else ("480x270",))]
    for text in ranges or ():
        parts = text.split(",")
        if len(parts) != 3:
            raise InputError(f"{text!r} is not a profile: expected MIN,BEST,MAX, such as 64x64,480x270,1280x720")
        found.append(Profile(*(Shape(1, *parse_size(part)) for part in parts)))
    turned = [profile.rotated() for profile in found] if portrait else []
    return tuple(dict.fromkeys([*found, *turned]))


def _compile(bundle: Bundle, kind: Precision, device: Target, config: EngineConfig, folder: Path) -> dict[str, Any]:
    from ..backends.tensorrt import compile_for

    what = f"{device.name} {kind}"
    say(f"compiling {bundle.name} in {kind} for {device.device}")
    with build_bar() as on_progress:
        return compile_for(
            bundle,
            kind,
            device,
            config,
            folder,
            on_progress=on_progress,
            on_retry=lambda reason: say(f"{what}: {reason}"),
        )


def _print(bundle: Bundle, made: Sequence[dict[str, Any]], on_device: dict[str, list[str]]) -> None:
    from ..backends.tensorrt import find_target

    rows = [
        (
            entry["target"],
            entry["precision"],
            f"{entry['bytes'] / 1e6:.2f} MB",
            f"{entry['seconds']:.1f} s",
            f"{entry['convolutions'] - len(entry['faults'])} of {entry['convolutions']}",
            ", ".join(entry["reformats"]) or "none",
            entry["engine"] or "not written",
        )
        for entry in made
    ]
    if rows:
        header = ("target", "precision", "engine", "built in", "convs as asked", "reformat layers", "file")
        print_table(f"{bundle.name}, compiled with TensorRT for RTX", header, rows, files=len(header) - 1)
        for entry in made:
            if entry["engine"]:
                say(f"wrote {entry['engine']}")
    for name, lines in on_device.items():
        say(
            f"TensorRT for RTX has no {find_target(name).device}, which compiles for itself, with TensorRT: run there, "
            "beside a copy of the bundle, the first line, or trtexec for an engine in a file:"
        )
        for line in lines:
            print(printable(line))
