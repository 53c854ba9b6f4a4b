"""How much longer a simulated (fake-quantized) forward takes than a full-precision one, on the bundled architecture.

    python benchmarks/simulated_forward.py --batch 1 32 --threads 1

Both nets run in turn in one process, so that a busy machine slows both; the ratio of their medians counts. It says
what sampling from a quantized net costs the harness. It is no latency of anything.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from torch import Tensor, nn

from pqbench.contracts.precision import Precision
from pqbench.quantization.net.layers import activation_quantizers, quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.rules import minmax, rows
from pqbench.workloads.diffusers_net import DiffusersDenoiser
from pqbench.workloads.training.sets import FASHION


def simulated(
    precision: Precision,
    example: tuple[Tensor, Tensor],
    whole_scope: bool,
    source: nn.Module | None = None,
    end_bits: int | None = None,
) -> nn.Module:
    """A copy of `source` (None: random weights) quantized to nearest; activations on a grid over -3 ... 3."""
    net = DiffusersDenoiser.from_config(FASHION.architecture) if source is None else copy.deepcopy(source)
    quantize_layers(net, precision, example, end_bits=end_bits, attention=whole_scope, split_shortcuts=whole_scope)
    for _, layer in quantized_layers(net):
        if layer.grid is not None:
            layer.freeze(layer.weight, *minmax(rows(layer.weight, per_channel=True), layer.grid))
    for name, quantizer in activation_quantizers(net):
        if quantizer.grid is not None:
            lowest, highest = (0.0, 1.0) if name.endswith("softmax") else (-3.0, 3.0)
            quantizer.set(*quantizer.grid.parameters(torch.tensor(lowest), torch.tensor(highest)))
    return net


def alternating_medians(nets: list[nn.Module], example: tuple[Tensor, Tensor], seconds: float) -> list[float]:
    """The median time of one forward of each net, in milliseconds, from runs that take turns for `seconds`."""
    times: list[list[float]] = [[] for _ in nets]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for net, kept in zip(nets, times, strict=True):
            start = time.perf_counter()
            net(*example)
            kept.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(kept[1:]) for kept in times]


@torch.no_grad()
def main() -> None:
    """Print one line a batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--precision", type=Precision.parse, default=Precision(4, 4))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring, for each batch size")
    parser.add_argument("--whole-scope", action="store_true", help="attention operands and split shortcuts as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    full = DiffusersDenoiser.from_config(FASHION.architecture)
    for batch in options.batch:
        example = torch.randn(batch, 4, 16, 16), torch.full((batch,), 500)
        quantized = simulated(options.precision, example, options.whole_scope)
        fp, fake = alternating_medians([full, quantized], example, options.seconds)
        print(f"batch {batch}: fp {fp:.1f} ms, {options.precision} simulated {fake:.1f} ms, ratio {fake / fp:.2f}")


if __name__ == "__main__":
    main()
