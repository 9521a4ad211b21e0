"""Frames through a session on a simulated GPU, in some order: what finds bugs in it."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.simulated_cuda import Device
from tests.simulated_tensorrt import SimulatedTensorRT, session_of
from tests.tensorrt_standin import RELEASES
from wdsr_edge.backends import _cuda, tensorrt
from wdsr_edge.backends.tensorrt import TensorRtSession

Frame = NDArray[np.uint8]
SIZES = ((4, 5), (6, 3), (5, 5), (3, 7), (7, 4), (4, 4))


class Code(NamedTuple):
    """The modules under test, as they are or with a bug."""

    cuda: Any
    session: Any


OURS = Code(_cuda, tensorrt)


def engine(onnx: Path, *profiles: Any) -> bytes:
    found = profiles or [((1, 1, 1, 3), (1, 4, 4, 3), (1, 9, 9, 3))]
    return json.dumps({"onnx": str(onnx), "scale": 2, "profiles": found}).encode()


def expected(onnx: Path, frame: Frame) -> Frame:
    found: Frame = session_of(str(onnx)).run(None, {"lr": frame})[0]
    return found


def frame(random: Random, height: int, width: int) -> Frame:
    return np.frombuffer(random.randbytes(3 * height * width), np.uint8).reshape(1, height, width, 3).copy()


def opened(device: Device, onnx: Path, release: str = "11.4.0", code: Code = OURS, **options: Any) -> TensorRtSession:
    trt = options.pop("trt", None) or SimulatedTensorRT(release, device)
    data = options.pop("engine", engine(onnx))
    library = "tensorrt-rtx" if release.startswith("rtx") else "tensorrt"
    found: TensorRtSession = code.session.TensorRtSession(
        library, trt, code.cuda.Cuda(0, device), lambda shape: data, **options
    )
    return found


def empty(device: Device) -> None:
    gc.collect()
    device.check_empty()


def schedule(onnx: Path, seed: int, code: Code = OURS) -> None:
    """Some frames of some shapes, taken and given in some order, on a GPU that works in some order."""
    random = Random(seed)
    chooses = (random.randrange, lambda n: 0, lambda n: n - 1)
    device = Device(chooses[min(random.randrange(6), 2)], integrated=random.random() < 0.25)
    session = opened(
        device,
        onnx,
        random.choice(RELEASES),
        code,
        slots=random.choice((1, 2, 2, 3)),
        graphs=random.random() < 0.75,
    )
    waiting: list[tuple[Any, Frame]] = []
    done: list[tuple[Frame, Frame]] = []
    sizes = SIZES[: random.choice((1, 2, len(SIZES)))]
    for _ in range(random.randrange(1, 14)):
        if random.random() < 0.65 or not waiting:
            batch = frame(random, *random.choice(sizes))
            wanted = expected(onnx, batch)
            waiting.append((session.submit(batch), wanted))
            batch[:] = 0
        else:
            ticket, wanted = waiting.pop(random.randrange(len(waiting)))
            done.append((ticket.result(), wanted))
            assert ticket.timing.compute_ms > 0
    if random.random() < 0.5:
        session.close()
    done += [(ticket.result(), wanted) for ticket, wanted in waiting]
    session.close()
    for found, wanted in done:
        assert found.flags.owndata
        assert (found == wanted).all()
    del session
    waiting.clear()
    empty(device)
