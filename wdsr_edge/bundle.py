"""A bundle: what a deployable model is on disk.

    manifest.json        format version, config, sha256 of every other file, measured parity, how it was made
    weights.safetensors  the checkpoint, for the PyTorch reference
    fp32.onnx            the deploy graph: uint8 NHWC in and out
    fp32-float.onnx      the float variant, for 16-bit images
    fp16.onnx            the deploy graph in FP16, for GPUs
    int8.onnx            in INT8 and FP16, for TensorRT, and int8-cpu.onnx, in INT8 and FP32, for CPUs
    calibration.json     how INT8 was placed: what each layer costs, and drop against INT8 share; .png as a picture
    golden/lr.png        a small frame, and golden/sr.png, what the PyTorch reference makes of it

A bundle from elsewhere is hostile until it is checked: names, sizes, hashes, and each graph's operators and contract.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ._errors import BundleError, InputError
from ._exchange import heal
from ._files import check_folder, is_device_name, replacing
from .config import ModelConfig
from .onnx_reader import OnnxSummary, read_onnx

Precision = Literal["fp32", "fp16", "int8"]
Graph = Literal["fp32", "fp16", "int8", "int8-cpu"]
"""Graphs that a bundle may have, most exact first: INT8 has one form for TensorRT and one for CPUs."""
Io = Literal["uint8", "float32"]

FORMAT_VERSION = 1
METADATA_PREFIX = "wdsr_edge."
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
GOLDEN_LR, GOLDEN_SR = "golden/lr.png", "golden/sr.png"

_NAME = re.compile(r"(golden/)?[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9_-])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RESERVED = frozenset({"format_version", "name", "config", "files"})
_LARGEST_MANIFEST, _LARGEST_FILE, _LARGEST_GOLDEN = 1 << 20, 1 << 28, 1 << 22


def onnx_name(graph: Graph, io: Io = "uint8") -> str:
    """File name of a graph inside a bundle."""
    return f"{graph}.onnx" if io == "uint8" else f"{graph}-float.onnx"


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. Make one with ``Bundle.load``; write one with ``write_bundle``."""

    path: Path
    """Its directory."""
    config: ModelConfig
    """The network."""
    manifest: Mapping[str, Any]
    """All of manifest.json."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and check the bundle in directory ``path``: every file's name, size and hash, every graph's contract.

        Raises BundleError, in one line, for anything missing, damaged, hostile or from a later version.
        """
        directory = Path(path)
        manifest = read_manifest(directory)
        try:
            config = ModelConfig.from_dict(manifest["config"])
        except InputError as error:
            raise BundleError(f"{directory}: {error}") from error
        bundle = cls(directory, config, manifest)
        for name in manifest["files"]:
            data = bundle.read(name)
            if name.endswith(".onnx"):
                bundle._check_graph(name, data)
        return bundle

    @property
    def name(self) -> str:
        """The model's exact name."""
        return self.config.name

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The uint8 graphs it holds, most exact first."""
        return tuple(graph for graph in get_args(Graph) if self.has(onnx_name(graph)))

    @property
    def details(self) -> dict[str, Any]:
        """Details that ``write_bundle`` was given: how the model was trained, measured and calibrated."""
        return {key: value for key, value in self.manifest.items() if key not in _RESERVED}

    def has(self, name: str) -> bool:
        """True if the manifest lists file ``name``."""
        return name in self.manifest["files"]

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, hashed as they are returned."""
        if not self.has(name):
            raise BundleError(f"{self.path}: holds no {name}")
        data = _read_file(self.path, name, _LARGEST_FILE)
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]:
            raise BundleError(f"{self.path}: {name} does not match its sha256: copy or build the bundle again")
        return data

    def onnx(self, graph: Graph, io: Io = "uint8") -> bytes:
        """A graph of the bundle, hash and contract checked."""
        name = onnx_name(graph, io)
        data = self.read(name)
        self._check_graph(name, data)
        return data

    def golden(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The golden LR frame and the PyTorch reference's SR of it, uint8 HWC RGB."""
        lr, sr = (self._png(name) for name in (GOLDEN_LR, GOLDEN_SR))
        if sr.shape[:2] != (lr.shape[0] * self.config.scale, lr.shape[1] * self.config.scale):
            raise BundleError(f"{self.path}: golden frames {lr.shape} and {sr.shape} do not fit x{self.config.scale}")
        return lr, sr

    def _png(self, name: str) -> NDArray[np.uint8]:
        from PIL import Image

        data = self.read(name)
        width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
        if not data.startswith(b"\x89PNG\r\n\x1a\n") or not 0 < width * height <= _LARGEST_GOLDEN:
            raise BundleError(f"{self.path}: {name} is not a PNG of at most {_LARGEST_GOLDEN} pixels")
        try:
            with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                warnings.simplefilter("ignore")
                return np.array(image.convert("RGB"))
        except Exception as error:  # Pillow raises nearly anything on damaged files
            raise BundleError(f"{self.path}: {name} cannot be read ({error})") from error

    def _check_graph(self, name: str, data: bytes) -> None:
        try:
            summary = read_onnx(data)
            _check_contract(summary, self.config, "float32" if name.endswith("-float.onnx") else "uint8")
        except BundleError as error:
            raise BundleError(f"{self.path}: {name}: {error}") from error


def write_bundle(
    path: str | os.PathLike[str], config: ModelConfig, files: Mapping[str, bytes], details: Mapping[str, Any]
) -> Bundle:
    """Write ``files`` and a manifest with ``details`` as a bundle at ``path``, replacing one there only when complete.

    Raises InputError if ``path`` holds something else than a bundle, or ``details`` says what the bundle says itself.
    Returns the bundle, loaded and checked.
    """
    target = check_target(path)
    check_details(details)
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "config": config.to_dict(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        **details,
    }
    with replacing(target, directory=True) as fresh:
        for name, data in files.items():
            (fresh / name).parent.mkdir(exist_ok=True)
            (fresh / name).write_bytes(data)
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        Bundle.load(fresh)
    return Bundle.load(target)


def check_details(details: Mapping[str, Any]) -> None:
    """Raise the InputError that ``write_bundle`` would raise for ``details``; for use before long work."""
    if _RESERVED & details.keys():
        raise InputError(f"details may not hold {', '.join(sorted(_RESERVED & details.keys()))}")
    try:
        size = len(json.dumps(details, indent=2, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:  # NaN, objects, lists too deep
        raise InputError(f"details cannot be written as JSON ({error})") from error
    if size > _LARGEST_MANIFEST // 2:
        raise InputError(f"details are {size} bytes of JSON: a manifest has room for {_LARGEST_MANIFEST // 2}")


def check_target(path: str | os.PathLike[str]) -> Path:
    """``path``, if a bundle can be written there: over nothing, an empty folder or a bundle. InputError otherwise."""
    target = Path(path)
    if target.is_dir() and any(target.iterdir()):
        try:
            read_manifest(target)
        except BundleError as error:
            raise InputError(f"{target} exists and is not a bundle: choose another output directory") from error
    elif target.exists() and not target.is_dir():
        raise InputError(f"{target} exists and is not a bundle: choose another output directory")
    check_folder(target.absolute().parent)
    return target


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest in ``directory``, whose files are not read; BundleError if there is no bundle."""
    """Content of a bundle's manifest.json: its format and names are checked, its files are not.

    Raises BundleError.
    """
    if not os.path.isdir(directory) and not heal(directory):
        raise BundleError(f"{directory}: no such bundle directory")
    try:
        manifest = json.loads(_read_file(directory, MANIFEST, _LARGEST_MANIFEST), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{directory}: {MANIFEST} is not JSON ({error})") from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(f"{directory}: bundle format {str(version)[:20]!r}, this version reads {FORMAT_VERSION}")
    files = manifest.get("files")
    if not isinstance(files, dict) or "config" not in manifest:
        raise BundleError(f"{directory}: {MANIFEST} lacks files or config")
    for name, digest in files.items():
        if not _NAME.fullmatch(name) or is_device_name(os.path.basename(name)):
            raise BundleError(f"{directory}: file name {name[:100]!r} is refused: plain names only")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise BundleError(f"{directory}: {name} has no sha256 in {MANIFEST}")
    checked: dict[str, Any] = manifest
    return checked


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not a number there")


def _read_file(directory: Path, name: str, largest: int) -> bytes:
    """A regular file inside ``directory``, never through a link: a bundle from elsewhere must not name other files."""
    path = directory / name
    for part in (path.parent, path) if path.parent != directory else (path,):
        if _is_link(part):
            raise BundleError(
                f"{directory}: {part.relative_to(directory).as_posix()} is a link, which is refused: copy the bundle "
                "with its files (cp -rL; from the Hugging Face Hub, download it with --local-dir)"
            )
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(path, "rb", opener=lambda place, mode: os.open(place, mode | flags)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
                raise BundleError(f"{directory}: {name} is not a regular file of at most {largest >> 20} MiB")
            return file.read(largest)
    except OSError as error:
        raise BundleError(f"{directory}: {name} cannot be read ({error.strerror})") from error


def _is_link(path: Path) -> bool:
    """Also a junction of Windows, which Python can tell since 3.12."""
    return path.is_symlink() or bool(getattr(os.path, "isjunction", lambda path: False)(path))


def _check_contract(summary: OnnxSummary, config: ModelConfig, io: Io) -> None:
    """The graph's interface and metadata must say what the manifest says."""
    height, channel = (1, 3) if io == "uint8" else (2, 1)
    shape = summary.inputs.get("lr", ("", ()))[1]
    if len(shape) != 4 or shape[channel] != 3:
        raise BundleError(f"its interface is wrong: input lr has shape {list(shape)}")
    big = list(shape)
    for axis in (height, height + 1):
        side = shape[axis]
        big[axis] = side * config.scale if isinstance(side, int) else f"{config.scale}*{side}"
    if summary.inputs != {"lr": (io, shape)} or summary.outputs != {"sr": (io, tuple(big))}:
        raise BundleError(f"its interface is {summary.inputs} to {summary.outputs}, expected {io} lr to {io} sr {big}")
    try:
        stated = {
            key: json.loads(summary.metadata.get(f"{METADATA_PREFIX}{key}", "null"))
            for key in ("config", "scale", "halo", "io", "color_order")
        }
        agrees = ModelConfig.from_dict(stated.pop("config")) == config
    except (ValueError, RecursionError) as error:
        raise BundleError(f"its metadata cannot be read ({error})") from error
    if not agrees or stated != {"scale": config.scale, "halo": config.halo, "io": io, "color_order": "rgb"}:
        raise BundleError(f"its metadata disagrees with the manifest: {stated}")
