"""``wdsr_edge.load``: from a name or a directory to a SuperResolver."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from functools import partial
from pathlib import Path
from typing import Literal, cast, get_args

from ._at_exit import end_with_process
from ._calls import Calls
from ._errors import BackendError, InputError, MissingExtraError
from .backends import (
    BUILT_FOR_SHAPES,
    COMPILED,
    ON_CPU,
    Backend,
    GpuOptions,
    Session,
    check_backend,
    installed,
    open_session,
    thread_count,
)
from .backends.tensorrt import Cuda, read_beside
from .bundle import MANIFEST, Bundle, Precision
from .choices import Choice, choices, fastest, graph_of
from .chosen import chosen
from .proof.gates import over_budget
from .proof.golden import golden_test
from .super_resolver import SuperResolver, Tile

ZOO = Path(__file__).parent / "zoo"
ZOO_VARIABLE = "WDSR_EDGE_ZOO"

_LOG = logging.getLogger("wdsr_edge")
_OPENING = Calls()
end_with_process(_OPENING)


def load(
    path_or_name: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    precision: Precision | Literal["auto"] = "auto",
    device: int = 0,
    tile: Tile = "auto",
    engine: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    allow_cpu: bool = False,
    threads: int | None = None,
    queue_size: int | None = None,
) -> SuperResolver:
    """A ready SuperResolver for a zoo model (``"wdsr-b-3x32-x2"``) or a bundle directory.

    A name is looked for in the folder that the environment variable WDSR_EDGE_ZOO names, then among the models that
    ship with the package; a path with a separator, or to an existing directory, is a bundle.

    Where ``backend`` or ``precision`` is ``auto``, it is what ``wdsr-edge deploy``, ``compile`` or ``benchmark`` found
    fastest for this bundle on this machine and its first GPU (kept in the user's cache, and only if it reproduced the
    golden frame; INT8 only if it stays within the bundle's budget on photographs and on every drawn kind of picture);
    else the first that opens of tensorrt, tensorrt-rtx, onnxruntime-cuda and onnxruntime-tensorrt, in
    FP16, onnxruntime and openvino, in FP32. INT8 takes the form of the bundle that fits. ``tile``: core edge in LR
    pixels, ``"auto"``, or None for whole frames.

    ``device`` picks a GPU, as CUDA numbers them. An engine of TensorRT is compiled when a frame of a new size comes,
    which may take minutes, proven on the golden frame, and kept in ``cache_dir``, the user's cache by default;
    ``wdsr-edge compile`` does that beforehand. ``engine`` is a file with a compiled engine instead, for frames of the
    sizes that it takes: native code, so name only one that you have compiled. ``allow_cpu`` lets ONNX Runtime leave to
    the CPU what its GPU providers cannot do.

    ``threads`` is how many threads a CPU backend computes with: 1 to 1024, or None for what the environment variable
    WDSR_EDGE_THREADS says, else as many as the backend takes, one for each core. With small frames, or several
    processes on one machine, 1 is often fastest. Where this number of threads was timed (``benchmark --threads``),
    ``auto`` goes by that. GPU backends do not use it.
    ``queue_size`` is how many frames of ``submit`` can wait before it does; None takes twice as many as are worked on
    at a time.

    Raises InputError for a bad argument or an unknown name, BundleError for a bundle that is damaged or hostile,
    BackendError or MissingExtraError if no engine takes it.
    """
    thread_count(threads)
    bundle = Bundle.load(find_bundle(path_or_name))
    gpu = GpuOptions(
        device,
        None if cache_dir is None else Path(cache_dir),
        None if engine is None else Path(engine),
        allow_cpu=allow_cpu,
    )
    tried = fitting(bundle, backend, precision, gpu=gpu, threads=threads)
    if precision == "auto":
        tried = tuple(choice for choice in tried if not _is_over_budget(bundle, choice)) or tried
    asked = "auto" not in (backend, precision)
    opened = partial(open_bundle, bundle, tile=tile, gpu=gpu, threads=threads, queue_size=queue_size, asked=asked)
    for choice in tried[:-1] if backend == "auto" else ():
        try:
            return opened(choice)
        except (BackendError, MissingExtraError) as error:
            _LOG.warning("%s in %s is not used: %s", choice.backend, choice.precision, error)
    return opened(tried[-1 if backend == "auto" else 0])


def candidates(
    bundle: Bundle,
    backend: Backend = "auto",
    precision: Precision | Literal["auto"] = "auto",
    *,
    threads: int | None = None,
) -> tuple[Choice, ...]:
    """Choices that ``load`` tries, best first; InputError or BackendError if there is none.

    Unless ``precision`` names it, INT8 that loses more than the bundle's budget on any content comes last.
    """
    check_backend(backend)
    among = choices(bundle, backend, precision)
    if precision == "auto":
        among = tuple(sorted(among, key=lambda choice: _is_over_budget(bundle, choice)))
    sound = tuple(choice for choice in among if precision != "auto" or not _is_over_budget(bundle, choice))
    best = fastest(bundle, sound or among, threads=thread_count(threads))
    if among:
        return (best, *(choice for choice in among if choice != best)) if best else among
    engine = (installed() if backend == "auto" else [backend])[0]  # its package is missing, or its GPU: opening it says
    choice = Choice(engine, precision if precision != "auto" else "fp32" if engine in ON_CPU else "fp16")
    if graph_of(choice) not in bundle.graphs:
        held = ", ".join(bundle.graphs) or "no graph at all"
        raise InputError(f"{bundle.path} holds no {graph_of(choice)}: it holds {held}")
    return (choice,)


def _is_over_budget(bundle: Bundle, choice: Choice) -> bool:
    return bool(over_budget(graph_of(choice), choice.backend, bundle.manifest))


def fitting(
    bundle: Bundle,
    backend: Backend = "auto",
    precision: Precision | Literal["auto"] = "auto",
    *,
    gpu: GpuOptions,
    threads: int | None = None,
) -> tuple[Choice, ...]:
    """``candidates`` that can do what is asked of a GPU: to be another than the first, or to run a compiled engine.

    Of an engine, ``compile`` wrote next to it in which precision it is, and for which library. Raises InputError if
    there is none, and BackendError if there are GPUs and none of that number.
    """
    if gpu.engine is not None:
        if not os.path.isfile(gpu.engine):
            raise InputError(f"engine {str(gpu.engine)!r} cannot be read: it is not a file")
        precision = precision_of(gpu.engine) if precision == "auto" else precision
        library = read_beside(gpu.engine).get("library", "").partition(" ")[0]
        backend = next((one for one in COMPILED if one == library), backend) if backend == "auto" else backend
    among = candidates(bundle, backend, precision, threads=threads)
    found = tuple(choice for choice in among if _fits(choice, gpu))
    if not found:
        names = " or ".join(dict.fromkeys(choice.backend for choice in among))
        what = f"device {gpu.device} is for a GPU"
        if gpu.engine is not None:
            what = f"engine {str(gpu.engine)!r} is for {' or '.join(COMPILED)} on a GPU"
        raise InputError(f"{what}, not for {names}: leave it out, or see what wdsr-edge doctor says")
    if gpu.device:
        with contextlib.suppress(MissingExtraError):  # ONNX Runtime needs no cuda-bindings, and says it itself
            Cuda(gpu.device)
    return found


def open_bundle(
    bundle: Bundle,
    choice: Choice,
    *,
    tile: Tile = "auto",
    gpu: GpuOptions | None = None,
    threads: int | None = None,
    queue_size: int | None = None,
    asked: bool = True,
) -> SuperResolver:
    """``bundle`` in one engine and precision that ``choices`` names, ``asked`` for or not; the rest as in ``load``."""

    gpu, count = gpu or GpuOptions(), thread_count(threads) or None
    plain = dataclasses.replace(gpu, engine=None, config=None, in_full=False, on_report=lambda report: None)

    def open_float_session() -> Session:
        onnx = bundle.onnx("fp32", "float32")
        test = golden_test(bundle, "fp32")
        return open_session(choice.backend, onnx, gpu=plain, self_test=test, threads=count)

    session = _open(bundle, choice, gpu, count)
    fixed = choice.backend in BUILT_FOR_SHAPES and gpu.engine is None
    return SuperResolver(
        session,
        bundle.config,
        open_float_session=open_float_session,
        backend=choice.backend,
        precision=choice.precision,
        tile=None if tile == "auto" and gpu.engine is not None else tile,
        fixed_windows=fixed,
        queue_size=queue_size,
        threads=count if choice.backend in ON_CPU else None,
        chosen=chosen(bundle, choice, asked=asked, threads=count or 0),
    )


def _open(bundle: Bundle, choice: Choice, gpu: GpuOptions, threads: int | None = None) -> Session:
    """A session whose compiled engines prove themselves; CUDA's provider, which has none, does so at once."""
    graph = graph_of(choice)
    compiled = choice.backend in COMPILED
    test = golden_test(bundle, graph, f"wdsr-edge compile {bundle.name} tests all" if compiled else "name another one")
    onnx = bundle.onnx(graph)
    with _OPENING:
        session = open_session(choice.backend, onnx, choice.precision, gpu=gpu, self_test=test, threads=threads)
        if choice.backend == "onnxruntime-cuda":
            try:
                test(session.run, (1, *bundle.golden()[0].shape))
            except BaseException:
                session.close()
                raise
    return session


def precision_of(engine: Path) -> Precision:
    """Precision that ``wdsr-edge compile`` noted next to an engine; InputError without such a note."""
    found = read_beside(engine).get("precision")
    for precision in get_args(Precision):
        if found == precision:
            return cast(Precision, precision)
    raise InputError(f"cannot tell the precision of {engine} (no .json next to it): name the precision")


def _fits(choice: Choice, gpu: GpuOptions) -> bool:
    """True if ``choice`` has what was asked of a GPU."""
    if gpu.engine is not None:
        return choice.backend in COMPILED
    return gpu.device == 0 or choice.backend not in ON_CPU


def find_bundle(path_or_name: str | os.PathLike[str]) -> Path:
    """Directory of a bundle, given it or a zoo name; InputError lists the names there are."""
    if not isinstance(path_or_name, (str, os.PathLike)):
        raise InputError(f"a model is named by a string or a path, got {type(path_or_name).__name__}")
    text = os.fspath(path_or_name)
    if len(text) > 4000 or "\0" in text:
        raise InputError(f"{text[:60]!r}... is not a path or the name of a model")
    in_zoo = _in_zoo(text)
    if os.path.isdir(text) and in_zoo:
        _LOG.warning("the folder %s is taken, not the zoo's model of that name: name it ./%s to say so", text, text)
    if os.path.isdir(text) or os.path.basename(text) != text:
        return Path(text)
    if in_zoo:
        return in_zoo
    raise InputError(f"no model {text[:100]!r}: expected a bundle directory or one of {', '.join(zoo_names())}")


def is_checkpoint(name: str | os.PathLike[str]) -> bool:
    """True if ``name`` means a weights file, and not a bundle directory or a zoo name."""
    text = os.fspath(name)
    if os.path.isfile(text) and _in_zoo(text):
        _LOG.warning("the file %s is taken, not the zoo's model of that name: name it ./%s to say so", text, text)
    return os.path.isfile(text) or text.endswith(".safetensors")


def zoo_names() -> list[str]:
    """Names of the models that ``load`` finds without a path."""
    return sorted({entry.parent.name for folder in _zoo_folders() for entry in folder.glob(f"*/{MANIFEST}")})


def _in_zoo(name: str) -> Path | None:
    """The model that ``name`` alone means, whatever lies in the current folder; None if there is no such model."""
    if os.path.basename(name) != name or not name:
        return None
    return next((folder / name for folder in _zoo_folders() if os.path.isfile(folder / name / MANIFEST)), None)


def _zoo_folders() -> list[Path]:
    extra = os.environ.get(ZOO_VARIABLE)
    return [Path(extra), ZOO] if extra else [ZOO]
