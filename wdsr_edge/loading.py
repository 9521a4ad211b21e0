"""``wdsr_edge.load``: from a name or a directory to a SuperResolver."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ._errors import InputError
from .backends import Backend, Session, open_session, resolve
from .bundle import MANIFEST, Bundle, Precision
from .speed import Choice, choices, fastest, graph_of
from .super_resolver import SuperResolver, Tile

ZOO = Path(__file__).parent / "zoo"
ZOO_VARIABLE = "WDSR_EDGE_ZOO"


def load(
    path_or_name: str | os.PathLike[str],
    *,
    backend: Backend = "auto",
    precision: Precision | Literal["auto"] = "auto",
    device: int = 0,
    tile: Tile = "auto",
    engine: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> SuperResolver:
    """A ready SuperResolver for a zoo model (``"wdsr-b-3x32-x2"``) or a bundle directory.

    A name is looked for in the folder that the environment variable WDSR_EDGE_ZOO names, then among the models that
    ship with the package; a path with a separator, or to an existing directory, is a bundle.

    Where ``backend`` or ``precision`` is ``auto``, it is what ``wdsr-edge deploy`` or ``benchmark`` found fastest for
    this bundle on this machine (kept in the user's cache, and only if it reproduced the golden frame); else the first
    installed of onnxruntime and openvino, in FP32. INT8 takes the bundle's form for CPUs. ``tile``: core edge
    in LR pixels, ``"auto"``, or None for whole frames. ``device`` picks a GPU and ``engine`` names a compiled engine:
    engines on the CPU have neither, so they must be 0 and None there. ``cache_dir`` is where compiled engines are kept;
    it is not used without any.
    Raises InputError for a bad argument or an unknown name, BundleError for a bundle that is damaged or hostile,
    BackendError or MissingExtraError if no engine takes it.
    """
    bundle = Bundle.load(find_bundle(path_or_name))
    choice = choose(bundle, backend, precision)
    if engine is not None or device != 0:
        raise InputError(
            f"backend {choice.backend} has no compiled engines and no devices: leave engine None and device 0"
        )
    return open_bundle(bundle, choice, tile=tile)


def choose(bundle: Bundle, backend: Backend, precision: Precision | Literal["auto"]) -> Choice:
    """What ``load`` takes; InputError or BackendError if there is no such thing here."""
    first = Choice(resolve(backend), "fp32" if precision == "auto" else precision)
    graph = graph_of(first)
    if graph not in bundle.graphs:
        raise InputError(f"{bundle.path} holds no {graph}: it holds {', '.join(bundle.graphs) or 'no graph at all'}")
    return fastest(bundle, choices(bundle, backend, precision)) or first


def open_bundle(bundle: Bundle, choice: Choice, *, tile: Tile = "auto") -> SuperResolver:
    """``bundle`` in one engine and precision that ``choices`` names."""

    def open_float_session() -> Session:
        return open_session(choice.backend, bundle.onnx("fp32", "float32"))

    return SuperResolver(
        open_session(choice.backend, bundle.onnx(graph_of(choice))),
        bundle.config,
        open_float_session=open_float_session,
        backend=choice.backend,
        precision=choice.precision,
        tile=tile,
    )


def find_bundle(path_or_name: str | os.PathLike[str]) -> Path:
    """Directory of a bundle, given it or a zoo name; InputError lists the names there are."""
    if not isinstance(path_or_name, (str, os.PathLike)):
        raise InputError(f"a model is named by a string or a path, got {type(path_or_name).__name__}")
    text = os.fspath(path_or_name)
    if len(text) > 4000 or "\0" in text:
        raise InputError(f"{text[:60]!r}... is no path and no name of a model")
    if os.path.isdir(text) or os.path.basename(text) != text:
        return Path(text)
    for folder in _zoo_folders():
        if os.path.isfile(folder / text / MANIFEST):
            return folder / text
    raise InputError(f"no model {text[:100]!r}: expected a bundle directory or one of {', '.join(zoo_names())}")


def is_checkpoint(name: str | os.PathLike[str]) -> bool:
    """Whether ``name`` means a weights file, and not a bundle directory or a zoo name."""
    return os.path.isfile(name) or os.fspath(name).endswith(".safetensors")


def zoo_names() -> list[str]:
    """Names of the models that ``load`` finds without a path."""
    return sorted({entry.parent.name for folder in _zoo_folders() for entry in folder.glob(f"*/{MANIFEST}")})


def _zoo_folders() -> list[Path]:
    extra = os.environ.get(ZOO_VARIABLE)
    return [Path(extra), ZOO] if extra else [ZOO]
