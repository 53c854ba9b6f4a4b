"""What limits a finished cell of the bundled workload: its steps and its blocks, each made exact in turn.

    python benchmarks/limits.py results/RUN pqcad --seed 0 --images 256

For each sampling step: FD, PSNR and mean grey level (of 255) of the images when that step alone lands where the
full-precision model's steps land. For each block: the same when the inputs of that block's layers are not quantized.
What FD falls by is what a perfect remedy there would buy; the first rows are full precision and the cell as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from fashion_images import distance, images
from torch import Tensor, nn

from pqbench.contracts.precision import FULL_PRECISION_BITS
from pqbench.diffusion.merged import merged_prediction
from pqbench.diffusion.noise import initial_noise
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.quantization.net.blocks import block_names
from pqbench.quantization.net.layers import activation_quantizers
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache, default_cache_folder
from pqbench.run.checkpoints import checkpoints
from pqbench.scoring.formulas.paired import psnr
from pqbench.workloads.fashion import Fashion


@dataclass(frozen=True)
class Judge:
    """Scores a net that makes `steps` steps, on images 0 ... count-1 of a base seed."""

    workload: Fashion
    steps: int
    seed: int
    count: int
    fp_images: Tensor

    def line(self, title: str, net: Callable[..., Tensor]) -> str:
        """One row: title, FD, PSNR to full precision, mean grey level."""
        found = images(self.workload, net, self.steps, self.seed, self.count)
        return _row(title, distance(self.workload, found), float(psnr(found, self.fp_images).mean()), _grey(found))


def _row(title: str, fd: float, decibels: float | None, grey: float) -> str:
    paired = "–" if decibels is None else f"{decibels:.2f}"
    return f"{title:<52} {fd:7.2f} {paired:>7} {grey:7.2f}"


def _grey(pictures: Tensor) -> float:
    return float(pictures.float().mean())


def exact_at(
    workload: Fashion, net: nn.Module, full_precision: nn.Module, steps: int, place: int
) -> Callable[..., Tensor]:
    """`net`, but at its step number `place` what leads to where the full-precision model goes."""
    run, time_step = workload.timesteps(workload.steps), int(workload.timesteps(steps)[place])

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        if int(t[0]) != time_step:
            return net(x_t, t)
        merged = workload.steps // steps
        return merged_prediction(full_precision, workload.schedule(), run, x_t, t, merged=merged)

    return predict


def with_float_inputs(net: nn.Module, block: str) -> Iterator[nn.Module]:
    """`net` while the inputs of one block's layers are left as they are."""
    quantizers = [q for name, q in activation_quantizers(net) if name == block or name.startswith(f"{block}.")]
    bits = [q.bits for q in quantizers]
    for quantizer in quantizers:
        quantizer.bits = FULL_PRECISION_BITS
    yield net
    for quantizer, before in zip(quantizers, bits, strict=True):
        quantizer.bits = before


@torch.no_grad()
def main() -> None:
    """Print one line a step and a block."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()
    workload, cache = Fashion(), StageCache(default_cache_folder())
    cells = checkpoints(RunFolder.existing(options.run).records(), cache)
    cell = next(c for c in cells if (c.record.label, c.record.seed) == (options.label, options.seed))
    if cell.path is None:
        raise SystemExit(f"{cell.title}: {cell.missing}.")
    net, steps = load_checkpoint(cell.path, workload.architecture()), cell.record.steps
    full_precision = workload.denoiser().requires_grad_(False)
    fp_images = images(workload, full_precision, workload.steps, options.seed, options.images)
    judge = Judge(workload, steps, options.seed, options.images, fp_images)
    print(f"{'exact':<52} {'FD':>7} {'PSNR':>7} {'grey':>7}")
    print(_row("full precision, all its steps", distance(workload, fp_images), None, _grey(fp_images)))
    print(judge.line("nothing", net), flush=True)
    for place, t in enumerate(workload.timesteps(steps).tolist()):
        print(judge.line(f"step at t = {t}", exact_at(workload, net, full_precision, steps, place)), flush=True)
    example = initial_noise(0, range(2), workload.shape), torch.zeros(2, dtype=torch.long)
    for block in block_names(net, lambda: net(*example)):
        for changed in with_float_inputs(net, block):
            print(judge.line(f"inputs of {block}", changed), flush=True)


if __name__ == "__main__":
    main()
