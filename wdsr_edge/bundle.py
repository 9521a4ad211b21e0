"""A bundle: what a deployable model is on disk.

    manifest.json        format version, config, sha256 of every other file, measured parity, how it was made
    weights.safetensors  the checkpoint, for the PyTorch reference
    fp32.onnx            the deploy graph: uint8 NHWC in and out
    fp32-float.onnx      the float variant, for 16-bit images
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._errors import BundleError, InputError
from ._files import replacing
from .config import ModelConfig
from .onnx_reader import OnnxSummary, read_onnx

Precision = Literal["fp32", "fp16", "int8"]
Io = Literal["uint8", "float32"]

FORMAT_VERSION = 1
METADATA_PREFIX = "wdsr_edge."
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
GOLDEN_LR, GOLDEN_SR = "golden/lr.png", "golden/sr.png"

_NAME = re.compile(r"(golden/)?[a-z0-9][a-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = {"manifest": 1 << 20, "file": 1 << 30}


def onnx_name(precision: Precision, io: Io = "uint8") -> str:
    """File name of a graph inside a bundle."""
    return f"{precision}.onnx" if io == "uint8" else f"{precision}-float.onnx"


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
        manifest = _read_manifest(directory)
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
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions it holds a uint8 graph for, most exact first."""
        files = self.manifest["files"]
        return tuple(precision for precision in ("fp32", "fp16", "int8") if onnx_name(precision) in files)

    def has(self, name: str) -> bool:
        """Whether the manifest lists file ``name``."""
        return name in self.manifest["files"]

    def read(self, name: str) -> bytes:
        """The bytes of a listed file, hashed as they are returned."""
        if not self.has(name):
            raise BundleError(f"{self.path}: holds no {name}")
        data = _read_file(self.path, name, _LARGEST["file"])
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]:
            raise BundleError(f"{self.path}: {name} does not match its sha256: copy or build the bundle again")
        return data

    def onnx(self, precision: Precision, io: Io = "uint8") -> bytes:
        """A graph of the bundle, hash and contract checked."""
        name = onnx_name(precision, io)
        data = self.read(name)
        self._check_graph(name, data)
        return data

    def golden(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The golden LR frame and the PyTorch reference's SR of it, uint8 HWC RGB."""
        from PIL import Image

        images = []
        for name in (GOLDEN_LR, GOLDEN_SR):
            try:
                with Image.open(io.BytesIO(self.read(name)), formats=["PNG"]) as image:
                    if image.width * image.height > 1 << 24:
                        raise BundleError(
                            f"{self.path}: {name} is {image.width}x{image.height}, too large for a golden frame"
                        )
                    images.append(np.array(image.convert("RGB")))
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise BundleError(f"{self.path}: {name} cannot be read ({error})") from error
        lr, sr = images
        if sr.shape[:2] != (lr.shape[0] * self.config.scale, lr.shape[1] * self.config.scale):
            raise BundleError(f"{self.path}: golden frames {lr.shape} and {sr.shape} do not fit x{self.config.scale}")
        return lr, sr

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

    Raises InputError if ``path`` holds something else than a bundle. Returns the bundle, loaded and checked.
    """
    target = check_target(path)
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
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        Bundle.load(fresh)
    return Bundle.load(target)


def check_target(path: str | os.PathLike[str]) -> Path:
    """``path``, if a bundle may be written there: nothing, an empty folder or a bundle. InputError otherwise."""
    target = Path(path)
    if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is no bundle: choose another output directory")
    return target


def _read_manifest(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise BundleError(f"{directory}: no such bundle directory")
    try:
        manifest = json.loads(_read_file(directory, MANIFEST, _LARGEST["manifest"]))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{directory}: {MANIFEST} is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version") if isinstance(manifest, dict) else None
        raise BundleError(f"{directory}: bundle format {found!r}, this version reads {FORMAT_VERSION}")
    files = manifest.get("files")
    if not isinstance(files, dict) or "config" not in manifest:
        raise BundleError(f"{directory}: {MANIFEST} lacks files or config")
    for name, digest in files.items():
        if not _NAME.fullmatch(name):
            raise BundleError(f"{directory}: file name {name[:100]!r} is refused: plain names only")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise BundleError(f"{directory}: {name} has no sha256 in {MANIFEST}")
    return manifest


def _read_file(directory: Path, name: str, largest: int) -> bytes:
    """A regular file inside ``directory``, never through a link."""
    path = directory / name
    try:
        with open(
            os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb"
        ) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
                raise BundleError(f"{directory}: {name} is no regular file of at most {largest >> 20} MiB")
            return file.read(largest)
    except OSError as error:
        raise BundleError(f"{directory}: {name} cannot be read ({error.strerror})") from error


def _check_contract(summary: OnnxSummary, config: ModelConfig, io: Io) -> None:
    """The graph's interface and metadata must say what the manifest says."""
    s = config.scale
    if io == "uint8":
        expected = {"lr": ("uint8", 4), "sr": ("uint8", 4)}
    else:
        expected = {"lr": ("float32", 4), "sr": ("float32", 4)}
    found = {
        name: (dtype, len(shape)) for ends in (summary.inputs, summary.outputs) for name, (dtype, shape) in ends.items()
    }
    if found != expected or list(summary.inputs) != ["lr"]:
        raise BundleError(f"its interface is {found}, expected {expected}")
    try:
        stated = {
            key: json.loads(summary.metadata.get(f"{METADATA_PREFIX}{key}", "null"))
            for key in ("config", "scale", "halo", "io", "color_order")
        }
        agrees = ModelConfig.from_dict(stated.pop("config")) == config
    except (ValueError, RecursionError) as error:
        raise BundleError(f"its metadata cannot be read ({error})") from error
    if not agrees or stated != {"scale": s, "halo": config.halo, "io": io, "color_order": "rgb"}:
        raise BundleError(f"its metadata disagrees with the manifest: {stated}")
