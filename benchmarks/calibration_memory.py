"""The peak memory of calibrating one block of the 35.7 M CIFAR-10 U-Net, with all its calibration samples.

    python benchmarks/calibration_memory.py --blocks 2 --samples 5120 --iterations 20

The net is google/ddpm-cifar10-32's architecture with random weights; the samples are noise at random time steps, since
memory does not depend on their values. For each block asked for (a number, or a part of a name), the full-precision
targets and the quantized prefix's inputs are captured over all samples, the rounding is learned for some iterations,
then the activation step sizes: all that a reconstruction ever holds at a time, as one block's data is freed before the
next one's is captured. It does not cover the drawing of the calibration set, which works in batches of 64. Blocks late
in the net take a whole forward over all samples twice, minutes to an hour on two cores; their inputs are the largest.

The peak is the process's VmHWM (Linux). Pages that the system caches of temporary files are no part of it.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time

import torch
from torch import nn

from pqbench.contracts.precision import Precision
from pqbench.quantization.learning.block_source import BlockSource
from pqbench.quantization.learning.reconstruction import Descent
from pqbench.quantization.learning.reconstruction_stages import RoundingStage, StepSizeStage
from pqbench.quantization.learning.row_store import StoredRows
from pqbench.quantization.net.blocks import block_names
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_weights
from pqbench.quantization.ranges.rules import minmax
from pqbench.workloads.diffusers_net import DiffusersDenoiser

DDPM_CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
"""google/ddpm-cifar10-32: 35.7 M parameters, attention at 16x16."""


def peak_gib() -> float:
    """The most memory that the process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def prepared(samples: int, limit: float) -> BlockSource:
    """The net at W4A4 with min-max weight grids and inputs on a grid over -3 ... 3, and its data source."""
    torch.manual_seed(0)
    reference = DiffusersDenoiser.from_config(DDPM_CIFAR10).eval().requires_grad_(False)
    x_t, t = torch.randn(samples, 3, 32, 32), torch.randint(0, 1000, (samples,))
    net = copy.deepcopy(reference)
    blocks = block_names(net, lambda: net(x_t[:1], t[:1]))
    quantize_layers(net, Precision(4, 4), (x_t[:1], t[:1]), w_symmetric=False)
    for _, layer in quantized_layers(net):
        assert layer.activation.grid is not None
        layer.activation.set(*layer.activation.grid.parameters(torch.tensor(-3.0), torch.tensor(3.0)))
    return BlockSource(net, reference, blocks, x_t, t, memory_limit=round(limit * 2**30))


def chosen(source: BlockSource, wanted: list[str]) -> list[str]:
    """The blocks whose number or part of a name is given."""
    return [
        name
        for i, name in enumerate(source.blocks)
        if any(w == str(i) or (w in name and not w.isdigit()) for w in wanted)
    ]


def main() -> None:
    """Print one line a block and stage, and the peak."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", nargs="+", default=["2"], help="numbers or parts of names; --list shows them")
    parser.add_argument("--samples", type=int, default=5120)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--limit", type=float, default=1.0, help="GiB of calibration data kept in memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = prepared(options.samples, options.limit)
    parameters = sum(p.numel() for p in source.reference.parameters())
    if options.list:
        print("\n".join(f"{i}: {name}" for i, name in enumerate(source.blocks)))
        return
    print(f"{parameters / 1e6:.1f} M parameters, {options.samples} samples; {peak_gib():.2f} GiB with both nets")
    floats = {name: layer.weight.clone() for name, layer in quantized_layers(source.net)}
    calibrate_weights(source.net, minmax)
    source.blocks = chosen(source, options.blocks)
    with source:
        for block in source.blocks:
            describe(source, block)
        run(source, floats, options.iterations)
    print(f"peak: {peak_gib():.2f} GiB")


def describe(source: BlockSource, block: str) -> None:
    """Capture a block's data once, and say how large it is and where it went."""
    start = time.perf_counter()
    with source.data(block) as data:
        parts = {"target": data.target, **{f"input {key}": rows for key, rows in data.arguments.items()}}
        sizes = [
            f"{name} {rows.nbytes / 2**30:.2f} GiB {'in a file' if isinstance(rows, StoredRows) else 'in memory'}"
            for name, rows in parts.items()
        ]
    print(f"{block}: {', '.join(sizes)}; captured in {time.perf_counter() - start:.0f} s, {peak_gib():.2f} GiB so far")


def run(source: BlockSource, floats: dict[str, nn.Parameter | torch.Tensor], iterations: int) -> None:
    """Both stages over the chosen blocks."""
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    RoundingStage(Descent(iterations, 1e-3)).run(source, floats, generator, [])
    print(f"rounding: {time.perf_counter() - start:.0f} s, {peak_gib():.2f} GiB so far")
    start = time.perf_counter()
    StepSizeStage(Descent(iterations, 4e-4, cosine=True, p=2.4)).run(source, generator, [])
    print(f"step sizes: {time.perf_counter() - start:.0f} s, {peak_gib():.2f} GiB so far")


if __name__ == "__main__":
    main()
