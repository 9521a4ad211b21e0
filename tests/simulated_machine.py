"""A machine with a simulated GPU, for commands in processes of their own: the whole way, builds included.

``environment`` lays out packages in place of TensorRT and cuda-bindings, which commands then find; their engines
compute with ONNX Runtime, and say that each convolution runs in what it asked for. ``faults`` makes up what can be
wrong: ``noise-KIND`` spoils the pictures of a precision, ``widen-KIND`` runs it in FP32, ``slow-KIND`` takes longer,
``die`` kills each build, ``die-once`` the first, and ``abort-xSCALE`` the process that runs a model.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tests import simulated_tensorrt
from tests.simulated_cuda import Device
from tests.simulated_tensorrt import Life, SimulatedEngine, SimulatedTensorRT
from tests.tensorrt_standin import Strict, calls, settings
from wdsr_edge.backends import registry as choice
from wdsr_edge.backends.tensorrt import library as tensorrt_library
from wdsr_edge.backends.tensorrt.config import Library
from wdsr_edge.onnx_reader import conv_precisions, read_onnx

ROOT = Path(__file__).resolve().parents[1]
_TYPES = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}

_MODULES = {
    "cuda/__init__.py": "",
    "cuda/bindings/__init__.py": "",
    "cuda/bindings/runtime.py": "import sys\nfrom tests.simulated_machine import gpu\nsys.modules[__name__] = gpu()\n",
    "simulated/__init__.py": "from tests.simulated_machine import put\nput(__name__)\n",
    "sitecustomize.py": "import wdsr_edge\nfrom tests.simulated_machine import pretend\npretend()\n",
}


def environment(
    folder: Path, *, release: str = "11.4.0", faults: str = "", memory: int = 1 << 30, gpus: int = 1
) -> dict[str, str]:
    """Lay the machine out in ``folder``: the environment of a command that is to run on it."""
    for name, text in _MODULES.items():
        (folder / "modules" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "modules" / name).write_text(text)
    machine = {"release": release, "faults": faults.split(), "memory": memory, "gpus": gpus}
    (folder / "machine.json").write_text(json.dumps(machine))
    paths = (folder / "modules", ROOT, ROOT / "export", ROOT / "calibration")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "SIMULATED_MACHINE": str(folder),
    }


def pretend() -> None:
    """There is a GPU, and of TensorRT the one release alone."""
    choice._GPU_FILES = ("*",)
    for library in tensorrt_library.MODULES:
        tensorrt_library.MODULES[library] = ("simulated" if library == library_of(_settings()["release"]) else "none",)


def gpu() -> Device:
    """The GPU of this process."""
    if not _GPUS:
        _GPUS.append(Device(Random(0).randrange, memory=_settings()["memory"], devices=_settings()["gpus"]))
    return _GPUS[0]


_GPUS: list[Device] = []


def library_of(release: str) -> Library:
    return "tensorrt-rtx" if release.startswith("rtx") else "tensorrt"


def _folder() -> Path:
    return Path(os.environ["SIMULATED_MACHINE"])


def _settings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((_folder() / "machine.json").read_text())
    return found


def put(name: str) -> None:
    """Put TensorRT's module in place of the one that is being imported."""
    module: Any = Machine(_settings()["release"], gpu())
    module.__spec__ = sys.modules[name].__spec__
    sys.modules[name] = module
    simulated_tensorrt.SimulatedEngine = MachineEngine  # type: ignore[misc]


class MachineEngine(SimulatedEngine):
    """An engine with the graph that it was built of."""

    def __init__(self, data: bytes, device: Device, life: Life) -> None:
        super().__init__(data, device, life)
        found = json.loads(data)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # which overflows in FP16
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(found["graph"], options, providers=["CPUExecutionProvider"])
        planar = found["planar"]
        self.dtype = np.dtype(np.float32 if planar else np.uint8)
        self.planar, self.faults, self.kind = planar, _settings()["faults"], found["kind"]

    def made_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        n, a, b, c = shape
        s = self.scale
        return (n, a, b * s, c * s) if self.planar else (n, a * s, b * s, c)

    def compute(self, lr: NDArray[Any]) -> NDArray[Any]:
        sr: NDArray[Any] = self.session.run(None, {"lr": lr.copy()})[0]
        if f"abort-x{self.scale}" in self.faults:
            os.abort()
        if f"slow-{self.kind}" in self.faults:
            time.sleep(0.04)
        if f"noise-{self.kind}" in self.faults:
            sr = sr ^ np.uint8(4)
        return sr


class Machine(SimulatedTensorRT):
    """TensorRT with a builder."""

    def __init__(self, release: str, device: Device) -> None:
        super().__init__(release, device)
        self.onnx = b""
        self.parser = Strict("OnnxParser", self, parse=self._parse, num_errors=0)
        lr = Strict("ITensor", self, name="lr", shape=(-1, -1, -1, 3))
        planar = Strict("ITensor", self, name="lr", shape=(-1, 3, -1, -1))
        self.network = Strict("INetworkDefinition", self, get_input=lambda index: planar if self._is_planar() else lr)

    def _parse(self, onnx: bytes) -> bool:
        self.onnx = onnx
        return True

    def _is_planar(self) -> bool:
        return read_onnx(self.onnx).inputs["lr"][0] == "float32"

    def _build(self, network: Strict, config: Strict) -> bytes | None:
        faults, died = _settings()["faults"], _folder() / "died"
        if "die" in faults or ("die-once" in faults and not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._build(network, config)
        with (_folder() / "built.jsonl").open("a") as file:
            file.write(json.dumps(self._asked()) + "\n")
        graph = _folder() / f"{hashlib.sha256(self.onnx).hexdigest()}.onnx"
        graph.write_bytes(self.onnx)
        asked = conv_precisions(self.onnx)
        kind = min(set(asked.values()), key=["int8", "fp16", "fp32"].index)
        scale = int(read_onnx(self.onnx).metadata["wdsr_edge.scale"])
        shapes = [calls(profile, "set_shape")[-1][1:] for profile in self.profiles]
        found = {
            "onnx": None,
            "graph": str(graph),
            "scale": scale,
            "profiles": shapes,
            "planar": self._is_planar(),
            "kind": kind,
            "asked": asked | {name: "fp32" for name in asked if f"widen-{kind}" in faults and asked[name] == kind},
        }
        engine = json.dumps(found).encode()
        if self.release.startswith("rtx"):
            self.logs[-1].log(self.ILogger.VERBOSE, _list(found["asked"]))
        return engine

    def _asked(self) -> dict[str, Any]:
        """What a build was given."""
        found = {name: value for name, value in settings(self.config).items() if isinstance(value, (str, int))}
        timing = [bytes(known) for (known,) in calls(self.config, "create_timing_cache")]
        limits = [limit for _, limit in calls(self.config, "set_memory_pool_limit")]
        return {**found, "gpu": self.gpu.gpu, "workspace": limits[-1], "timing_cache": len(timing[0]) if timing else 0}

    def _deserialize(self, runtime: Life, data: bytes) -> Strict | None:
        made = super()._deserialize(runtime, data)
        if made is not None:
            inspector = Strict("EngineInspector", self, get_engine_information=lambda form: _layers(data))
            made.__dict__["_state"].behaviour["create_engine_inspector"] = lambda: inspector
        return made


def _layers(data: bytes) -> str:
    """A made-up inspector dump, with the names of 11.x."""
    found = json.loads(data)
    layers: list[Any] = [
        {
            "Name": f"{name} + relu{f' [profile {profile}]' if profile else ''}",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Datatype": _TYPES[kind]}],
            "Outputs": [{"Name": "y", "Datatype": "Half"}],
            "Metadata": f"[ONNX Layer: {name}]",
        }
        for profile in range(len(found["profiles"]))
        for name, kind in found["asked"].items()
    ]
    layers.append({"Name": "Reformatting CopyNode for Input Tensor 0", "LayerType": "Reformat", "Inputs": []})
    return json.dumps({"Layers": layers})


def _list(asked: dict[str, str]) -> str:
    """What TensorRT for RTX logs of its layers."""
    lines = [
        f"Name: {name}, LayerType: correlation, Inputs: [ {{ Name: x, Datatype: {_TYPES[kind]} }}], "
        f"Outputs: [ {{ Name: y, Datatype: Half }}], TacticName: t, Metadata: [ONNX Layer: {name}]"
        for name, kind in asked.items()
    ]
    return "\n".join(["Layers:", *lines])
