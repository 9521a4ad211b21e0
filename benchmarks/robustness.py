"""Models on camera input: 20 conditions, PSNR and SSIM on luma, and images lost to bicubic.

Run: python -m benchmarks.robustness MODEL... --set Set14 [--datasets DIR]; prints Markdown. A model is a bundle, a zoo
name or a checkpoint. LR pictures are drawn by the image's and the condition's name, the same for every model and run.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from wdsr_edge import load
from wdsr_edge.data.layouts import find_dataset
from wdsr_edge.data.pairs import load_pairs
from wdsr_edge.evaluation import Upscale
from wdsr_edge.loading import is_checkpoint
from wdsr_edge.robustness import CONDITIONS, compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--set", default="Set14")
    parser.add_argument("--datasets", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with ExitStack() as opened:
        upscales: dict[str, Upscale] = {}
        scales = set()
        for name in arguments.models:
            if is_checkpoint(name):
                from wdsr_edge.models import load_checkpoint, reference

                network = load_checkpoint(name)
                upscales[name] = reference(network)
                scales.add(network.config.scale)
            else:
                resolver = opened.enter_context(load(name, precision=arguments.precision, threads=arguments.threads))
                upscales[resolver.name] = resolver
                scales.add(resolver.scale)
        if len(scales) > 1:
            parser.error("the models must be of one scale")
        (scale,) = scales
        pairs = load_pairs([find_dataset(arguments.set, arguments.datasets)], scale)
        ways = ["bicubic", "Lanczos", *upscales]
        print(f"{arguments.set}, x{scale}, {arguments.precision}: PSNR on luma, dB / SSIM (images lost to bicubic)\n")
        print(f"| LR input | written | {' | '.join(ways)} |\n|{'---|' * (len(ways) + 2)}")
        for name, degradation in CONDITIONS.items():
            found = compare(upscales, pairs, degradation, scale)
            cells = [
                f"{found[way].mean.psnr_y:.2f} / {found[way].mean.ssim_y:.4f}"
                + (f" ({len(found[way].lost)})" if way in upscales else "")
                for way in ways
            ]
            print(f"| {name} | `{degradation}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
