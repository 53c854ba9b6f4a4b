"""Single quantized layers must agree with the simulation to rounding, and must run on int8 kernels."""

from __future__ import annotations

import itertools

import pytest
import torch
from openvino_kernels import layers_of
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.engines.executed import counts
from pqbench.engines.openvino import OpenVino
from pqbench.quantization.grids.time_tables import keep_time
from pqbench.quantization.net.layers import QuantizedLayer
from pqbench.quantization.ranges.fitting import freeze_nearest
from pqbench.quantization.ranges.rules import minmax, rows

LAYERS: dict[str, nn.Module] = {
    "conv": nn.Conv2d(16, 24, 3, padding=1),
    "strided": nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False),
    "pointwise": nn.Conv2d(16, 24, 1),
    "linear": nn.Linear(16, 24),
    "conv1d": nn.Conv1d(16, 24, 3, padding=1),
}


class OneLayer(nn.Module):
    """Called like a denoiser; the time step only shifts the input by a constant."""

    def __init__(self, layer: nn.Module, linear: bool) -> None:
        super().__init__()
        self.layer, self.linear = layer, linear

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = x_t + 0.001 * t.view(-1, 1, 1, 1)
        return self.layer(x.flatten(2).transpose(1, 2)) if self.linear else self.layer(x)


def quantized(kind: str, w: int, a: int, x: Tensor, w_symmetric: bool = True, a_symmetric: bool = False) -> OneLayer:
    torch.manual_seed(w * 10 + a)
    source = LAYERS[kind]
    layer = QuantizedLayer(source, w, a, w_symmetric, a_symmetric)  # type: ignore[arg-type]
    if layer.grid is not None:
        layer.freeze(source.weight, *minmax(rows(source.weight.detach(), True), layer.grid))  # type: ignore[arg-type]
    if layer.activation.grid is not None:
        layer.activation.set(*minmax(rows(0.7 * x, False), layer.activation.grid))
    return OneLayer(layer, kind == "linear").eval()


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 16, 8, 8, generator=generator), torch.tensor([3, 3])


CASES = [
    *itertools.product(("conv", "linear"), range(2, 9), (4, 8)),
    *itertools.product(("strided", "pointwise"), (2, 4, 8), (4,)),
]


@pytest.mark.parametrize(("kind", "w", "a"), CASES)
def test_a_layer_agrees_with_the_simulation_and_runs_in_bytes(kind: str, w: int, a: int) -> None:
    x, t = inputs()
    net = quantized(kind, w, a, x)
    executable = OpenVino().compile(net, (16, 8, 8), 2, threads=1)
    with torch.no_grad():
        simulated = net(x, t)
    torch.testing.assert_close(executable(x, t), simulated, rtol=1e-4, atol=1e-4 * float(simulated.abs().max()))
    assert set(counts(executable.layers())) <= layers_of(min(w, a))
    assert sum(counts(executable.layers()).values()) == 1


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("w_symmetric", [True, False])
@pytest.mark.parametrize("a_symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_kind_of_grid_agrees_with_the_simulation(
    kind: str, w_symmetric: bool, a_symmetric: bool, bits: int
) -> None:
    x, t = inputs()
    net = quantized(kind, bits, bits, x, w_symmetric, a_symmetric)
    with torch.no_grad():
        simulated = net(x, t)
    executable = OpenVino().compile(net, (16, 8, 8), 2, threads=1)
    torch.testing.assert_close(executable(x, t), simulated, rtol=1e-4, atol=1e-4 * float(simulated.abs().max()))


@pytest.mark.parametrize(("w", "a"), [(4, 32), (32, 8)])
def test_a_layer_that_is_half_in_float_shows_it(w: int, a: int) -> None:
    x, t = inputs()
    net = quantized("conv", w, a, x)
    executable = OpenVino().compile(net, (16, 8, 8), 2, threads=1)
    with torch.no_grad():
        simulated = net(x, t)
    torch.testing.assert_close(executable(x, t), simulated, rtol=1e-4, atol=1e-4 * float(simulated.abs().max()))
    assert counts(executable.layers()) == {"f32": 1}


def test_one_dimensional_convolutions_agree_with_the_simulation() -> None:
    class Rows(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            return self.layer((x_t + 0.001 * t.view(-1, 1, 1, 1)).flatten(2)).view(2, 24, 8, 8)

    x, t = inputs()
    net = Rows(quantized("conv1d", 4, 8, x).layer).eval()
    with torch.no_grad():
        simulated = net(x, t)
    executable = OpenVino().compile(net, (16, 8, 8), 2, threads=1)
    torch.testing.assert_close(executable(x, t), simulated, rtol=1e-4, atol=1e-4 * float(simulated.abs().max()))
    assert set(counts(executable.layers())) <= {"u8", "i8"}


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_weights_with_scales_of_groups_agree_with_the_simulation_and_show_as_float(kind: str) -> None:
    x, t = inputs()
    net = quantized(kind, 4, 8, x)
    layer = QuantizedLayer(LAYERS[kind], 4, 8, group_size=5)  # type: ignore[arg-type]
    layer.activation.set(net.layer.activation.scale, net.layer.activation.zero_point)
    freeze_nearest(layer, minmax)
    net.layer = layer
    with torch.no_grad():
        simulated = net(x, t)
    executable = OpenVino().compile(net.eval(), (16, 8, 8), 2, threads=1)
    torch.testing.assert_close(executable(x, t), simulated, rtol=1e-4, atol=1e-4 * float(simulated.abs().max()))
    assert counts(executable.layers()) == {"f32": 1}


def test_activation_scales_that_are_not_static_are_refused() -> None:
    x = inputs()[0]
    net = quantized("conv", 4, 8, x)
    net.layer = QuantizedLayer(nn.Conv2d(16, 24, 3), 32, 8, a_dynamic=True)
    with pytest.raises(UserError, match="takes one from each token"):
        OpenVino().compile(net, (16, 8, 8), 2, threads=1)
    net = quantized("conv", 4, 8, x)
    keep_time(net, [0, 500])
    net.layer.activation.set(torch.tensor([0.1, 0.2]), torch.tensor([0, 3]))
    with pytest.raises(UserError, match="one for each time step"):
        OpenVino().compile(net, (16, 8, 8), 2, threads=1)
