"""Attention operands and split layers in OpenVINO: the numbers of the simulation, and what really runs in bytes."""

from __future__ import annotations

import pytest
import torch
from openvino_kernels import layers_of
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.contracts import CalibrationSet
from pqbench.contracts.precision import Precision
from pqbench.engines.executed import counts
from pqbench.engines.openvino import OpenVino
from pqbench.engines.quantized import is_quantized
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax


class Attention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class OneAttention(nn.Module):
    """One attention between two layers: deep enough to see what runs, too shallow for rounding to be amplified."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 48, 1)
        self.attention = Attention()
        self.last = nn.Conv2d(16, 3, 1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        h = self.first(x_t + 0.001 * t.view(-1, 1, 1, 1))
        q, k, v = h.flatten(2).transpose(1, 2).reshape(len(h), -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        return self.last(self.attention(q, k, v).transpose(2, 3).reshape(len(h), 16, *x_t.shape[2:]))


class OneShortcut(nn.Module):
    """A layer on the concatenation of two feature maps of different ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(11, 3, 1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = x_t + 0.001 * t.view(-1, 1, 1, 1)
        return self.shortcut(torch.cat([20 * self.first(x), x], 1))


def rounded(kind: type[nn.Module], precision: Precision, symmetric: bool, x: Tensor, t: Tensor) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = kind().eval().requires_grad_(False)
    quantize_layers(net, precision, (x, t), attention=True, split_shortcuts=True, a_symmetric=symmetric)
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x, t=t, workload="tiny"), MinMax)
    return net


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)), torch.full((2,), 500)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("precision", [Precision(8, 8), Precision(4, 4), Precision(32, 6)])
def test_quantized_attention_has_the_numbers_of_the_simulation(precision: Precision, symmetric: bool) -> None:
    x, t = inputs()
    net = rounded(OneAttention, precision, symmetric, x, t)
    simulated = net(x, t)
    executable = OpenVino().compile(net, (3, 8, 8), 2, threads=1)
    # A value on the border of two codes may fall on the other side: few do, by one step.
    error = (executable(x, t) - simulated).norm() / simulated.norm()
    assert float(error) < 0.02
    kernels = counts(executable.layers())
    layers = 2 if precision.w == 32 or layers_of(precision.w) == {"f32"} else 0
    # Attention is one kernel, or two products where the CPU has no such kernel. On asymmetric grids both are in float,
    # on symmetric ones in bytes or float, as the CPU has it.
    products = sum(kernels.values()) - 2
    assert products in (1, 2)
    assert kernels.get("f32", 0) - layers in (range(products + 1) if symmetric else (products,))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_split_layer_runs_in_bytes_with_the_numbers_of_the_simulation(bits: int, symmetric: bool) -> None:
    x, t = inputs()
    net = rounded(OneShortcut, Precision(bits, bits), symmetric, x, t)
    assert len(list(quantized_layers(net))) == 3
    simulated = net(x, t)
    executable = OpenVino().compile(net, (3, 8, 8), 2, threads=1)
    assert float((executable(x, t) - simulated).norm() / simulated.norm()) < 0.01
    assert set(counts(executable.layers())) <= layers_of(bits)
    assert sum(counts(executable.layers()).values()) == 3


def test_operands_alone_make_a_net_quantized() -> None:
    x, t = inputs()
    net = OneAttention().eval()
    quantize_layers(net, Precision(32, 8), (x, t), attention=True, exempt=["last"])
    assert is_quantized(net)
    net.first = nn.Conv2d(3, 48, 1)
    assert not list(quantized_layers(net))
    assert is_quantized(net)
