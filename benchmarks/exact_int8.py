"""What it costs to keep W8A8 exact on a CPU whose int8 kernels saturate: a step of the bundled net, four ways.

    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/exact_int8.py --batch 1 16 --seconds 20

fp             full precision
saturating     every layer in int8: another model than the checkpoint's
two products   int8 with each weight split into two halves, which cannot saturate
float32        int8 layers that could saturate moved to float32, as the engine does

The executables take turns in one process; the ratios of medians count.
"""

from __future__ import annotations

import argparse
import copy

import torch
from engines import medians, net_and_shape
from simulated_forward import simulated
from torch import Tensor, nn

from pqbench.contracts import Precision
from pqbench.engines.openvino import OpenVino, exact
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers, replace_module


class TwoProducts(nn.Module):
    """A quantized layer as the sum of two, whose weight codes are the halves of its own."""

    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.first, self.second = copy.deepcopy(layer), copy.deepcopy(layer)
        half = torch.div(layer.codes.int(), 2, rounding_mode="floor")
        self.first.codes = half.to(layer.codes.dtype)
        self.second.codes = (layer.codes.int() - half).to(layer.codes.dtype)
        self.second.bias = None
        self.first.restore()
        self.second.restore()

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        result: Tensor = self.first(x) + self.second(x)
        return result


def main() -> None:
    """Print a table for each batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, for each batch size")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    net, shape = net_and_shape("fashion")
    print("saturating kernels:", ", ".join(sorted(exact.saturating_kinds())) or "none on this CPU")
    for batch in options.batch:
        example = torch.randn(batch, *shape), torch.full((batch,), 500)
        quantized = simulated(Precision(8, 8), example, False, net)
        halved = copy.deepcopy(quantized)
        for name, layer in list(quantized_layers(halved)):
            replace_module(halved, name, TwoProducts(layer))
        lines = {
            "fp": OpenVino().compile(net, shape, batch, options.threads),
            "two products": OpenVino().compile(halved, shape, batch, options.threads),
            "float32": OpenVino().compile(quantized, shape, batch, options.threads),
        }
        known, exact.saturating_kinds = exact.saturating_kinds, frozenset  # type: ignore[assignment]
        lines["saturating"] = OpenVino().compile(quantized, shape, batch, options.threads)
        exact.saturating_kinds = known
        found = medians(lines, example, options.seconds)
        expected = lines["float32"](*example)
        print(f"batch {batch}, {options.threads} threads\n| line | ms a step | CPU ms | fp / line | off by |")
        print("|---|--:|--:|--:|--:|")
        for name, (wall, cpu) in found.items():
            error = float((lines[name](*example) - expected).norm() / expected.norm())
            off = "" if name == "fp" else f"{100 * error:.1f} %"
            print(f"| {name} | {wall:.1f} | {cpu:.1f} | {found['fp'][1] / cpu:.2f} | {off} |")


if __name__ == "__main__":
    main()
