"""Loss of INT8 on test sets, step by step, next to ONNX Runtime's own quantiser on the same crops.

Run: python -m benchmarks.int8 MODEL... --images DIR... --test DIR...; prints Markdown for results/.

A model is a zoo name, a bundle or a checkpoint. It is calibrated on --images and drawn pictures. All of the body
is INT8, and the figures are dB of PSNR on Y lost on each test set and drawn kind: with the identities of the residual
adds in floating point, and in brackets with these in INT8 as well.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from wdsr_calibration import CalibrationConfig, LearningConfig, SampleConfig, fit, sample_folders
from wdsr_calibration.drop import Drop, mean_psnr_y
from wdsr_calibration.placement import body
from wdsr_calibration.samples import PHOTOGRAPHS, CalibrationSet, Contents, drawn
from wdsr_edge.data.pairs import Pair, load_pairs
from wdsr_edge.images.drawn import SHARP
from wdsr_edge.images.files import Rgb
from wdsr_edge.models import EDSR, WDSR, fold, load_model, reference
from wdsr_edge.models.reference import to_image, to_tensor
from wdsr_export import export_onnx

PLAIN = CalibrationConfig(ranges="min-max", equalisation=False, learning=LearningConfig(steps=0))
STEPS: Mapping[str, CalibrationConfig] = {
    "min-max": PLAIN,
    "MSE-optimal ranges": replace(PLAIN, ranges="mse"),
    "equalisation, min-max": replace(PLAIN, equalisation=True),
    "equalisation, best ranges": replace(PLAIN, equalisation=True, ranges="auto"),
    "the same, learned towards FP32": CalibrationConfig(learning=LearningConfig(truth=0.0)),
    "the same, learned": CalibrationConfig(),
    "the same for CPUs (kernels of 7 bits, results in INT8)": CalibrationConfig(form="cpu"),
}
Sets = Mapping[str, Sequence[Pair]]


class Crops(CalibrationDataReader):  # type: ignore[misc]
    """Calibration crops as ONNX Runtime wants them."""

    def __init__(self, crops: Contents) -> None:
        self.batches = iter([pair.lr for pairs in crops.values() for pair in pairs])

    def get_next(self) -> dict[str, object] | None:
        crop = next(self.batches, None)
        return None if crop is None else {"lr": to_tensor(crop[None]).numpy()}


def stock(model: EDSR | WDSR, crops: Contents, only: str) -> Callable[[Rgb], Rgb]:
    """The float graph as ``quantize_static`` makes it by its defaults, kernels per channel; nodes that begin so."""
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, made = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "int8.onnx"))
        export_onnx(model, plain, io="float32")
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        names = [node.name for node in onnx.load(prepared).graph.node if node.name.startswith(only)]
        quantize_static(prepared, made, Crops(crops), per_channel=True, nodes_to_quantize=names if only else None)
        session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])

    def upscale(frame: Rgb) -> Rgb:
        (sr,) = session.run(None, {"lr": to_tensor(frame[None]).numpy()})
        image: Rgb = to_image(torch.from_numpy(np.asarray(sr)))[0]
        return image

    return upscale


def drops_of_stock(
    model: EDSR | WDSR, samples: CalibrationSet, tests: Sets, base: Mapping[str, float], only: str
) -> str:
    upscale = stock(model, samples.crops, only)
    return " | ".join(f"{base[name] - mean_psnr_y(upscale, pairs):.3f}" for name, pairs in tests.items())


def drops(model: EDSR | WDSR, samples: CalibrationSet, tests: Mapping[str, Drop], config: CalibrationConfig) -> str:
    held_out = Drop(fold(model), samples.held_out)
    found = []
    for identities in ("float", "int8"):
        fitted = fit(model, samples.crops, held_out, replace(config, identities=identities))
        placement = body(fitted.network, identities == "int8", config.form == "cpu")
        losses = [drop(fitted.network, placement) for drop in tests.values()]
        found.append([next(iter(loss.values())).mean_db for loss in losses])
    return " | ".join(f"{plain:.3f} ({fused:.3f})" for plain, fused in zip(*found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=Path, action="append", required=True)
    parser.add_argument("--test", type=Path, action="append", required=True)
    arguments = parser.parse_args()
    print(
        f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"{platform.machine()}\n\n    python -m benchmarks.int8 {' '.join(sys.argv[1:])}"
    )
    for name in arguments.models:
        model = load_model(name)
        scale = model.config.scale
        sets = {folder.name: load_pairs([folder], scale) for folder in arguments.test}
        sets |= {kind: pairs for kind, pairs in drawn(8, 96, scale, seed=2).items() if kind in SHARP}
        samples = sample_folders(arguments.images, scale, SampleConfig())
        tests = {test: Drop(fold(model), {test if test in SHARP else PHOTOGRAPHS: sets[test]}) for test in sets}
        base = {test: mean_psnr_y(reference(fold(model)), pairs) for test, pairs in sets.items()}
        print(f"\n| {Path(name).stem} | {' | '.join(sets)} | seconds |\n|---|{'---|' * len(sets)}---|")
        print(f"| FP32, dB | {' | '.join(f'{value:.2f}' for value in base.values())} | |", flush=True)
        for title, only in (("stock, every operator", ""), ("stock, body only", "body.")):
            start = time.perf_counter()
            row = drops_of_stock(model, samples, sets, base, only)
            print(f"| {title} | {row} | {time.perf_counter() - start:.0f} |", flush=True)
        for title, config in STEPS.items():
            start = time.perf_counter()
            row = drops(model, samples, tests, config)
            print(f"| {title} | {row} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
