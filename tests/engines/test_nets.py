"""Whole nets on the engines: the numbers, the kernels that ran, and what stays untouched."""

from __future__ import annotations

import pytest
import torch
from openvino_kernels import layers_of, needs_top_k
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet
from pqbench.contracts.precision import Precision
from pqbench.engines.executed import counts, fell_back
from pqbench.engines.openvino import OpenVino
from pqbench.engines.openvino.group_norm import ReducedGroupNorm
from pqbench.engines.quantized import is_quantized
from pqbench.engines.torch_eager import TorchEager
from pqbench.quantization.net.attention_search import attention_modules
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.output_correction import correct_output
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.testing.tiny import TinyWorkload

SHAPE = TinyWorkload.shape


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, *SHAPE, generator=generator), torch.full((batch,), 500)


def rounded(precision: Precision, x: Tensor, t: Tensor) -> nn.Module:
    """The tiny denoiser, rounded to the nearest grid points of min-max ranges."""
    net = TinyWorkload().denoiser()
    quantize_layers(net, precision, (x, t))
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x, t=t, workload="tiny"), MinMax)
    return net


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_full_precision_is_the_net_itself_on_both_engines() -> None:
    net, (x, t) = TinyWorkload().denoiser(), inputs()
    with torch.no_grad():
        expected = net(x, t)
    # Another number of threads would add up in another order.
    eager = TorchEager().compile(net, SHAPE, 2, threads=torch.get_num_threads())
    compiled = OpenVino().compile(net, SHAPE, 2, threads=1)
    torch.testing.assert_close(eager(x, t), expected, rtol=0, atol=0)
    torch.testing.assert_close(compiled(x, t), expected, rtol=1e-4, atol=1e-5)
    assert set(counts(eager.layers())) == set(counts(compiled.layers())) == {"f32"}


@needs_top_k
def test_the_correction_of_each_time_step_is_executed() -> None:
    steps = torch.tensor([900, 500, 100])
    biases = torch.linspace(-1, 1, 3 * SHAPE[0]).view(3, -1)
    net = correct_output(TinyWorkload().denoiser(), steps, torch.tensor([0.5, 1.0, 2.0]), biases)
    x, t = inputs(3)[0], torch.tensor([100, 900, 640])
    with torch.no_grad():
        expected = net(x, t)
    compiled = OpenVino().compile(net, SHAPE, 3, threads=1)
    torch.testing.assert_close(compiled(x, t), expected, rtol=1e-4, atol=1e-4)
    # Compiled once, it follows the time steps that it is called with.
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t.flip(0)), net(x, t.flip(0)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("precision", "bound"), [(Precision(8, 8), 0.05), (Precision(4, 4), 1.0)])
def test_a_quantized_net_is_as_far_from_full_precision_as_its_simulation(precision: Precision, bound: float) -> None:
    x, t = inputs()
    net = rounded(precision, x, t)
    with torch.no_grad():
        exact, simulated = TinyWorkload().denoiser()(x, t), net(x, t)
    executable = OpenVino().compile(net, SHAPE, 2, threads=1)
    executed = executable(x, t)
    # Rounding flips are amplified by depth, so whole nets are judged by their distance to full precision.
    assert distance(executed, exact) == pytest.approx(distance(simulated, exact), rel=0.2)
    assert distance(executed, simulated) < distance(simulated, exact) < bound
    precisions = dict(counts(executable.layers()))
    # The one attention is not quantized; two layers on the same input may become one product.
    assert len(attention_modules(net, lambda: net(x, t))) == 1
    assert set(precisions) <= {"f32", *layers_of(precision.w)}
    assert sum(precisions.values()) >= len(list(quantized_layers(net)))
    assert bool(fell_back(net, executable.layers())) == (layers_of(precision.w) == {"f32"})


def test_compiling_leaves_the_net_as_it_was() -> None:
    x, t = inputs()
    net = rounded(Precision(4, 4), x, t)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    OpenVino().compile(net, SHAPE, 2, threads=1)
    assert len(list(quantized_layers(net))) > 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_prediction_survives_the_next_call() -> None:
    net, (x, t) = TinyWorkload().denoiser(), inputs()
    executable = OpenVino().compile(net, SHAPE, 2, threads=1)
    first = executable(x, t)
    kept = first.clone()
    executable(x + 1, t)
    assert torch.equal(first, kept)


def test_eager_torch_puts_the_number_of_threads_back() -> None:
    net, (x, t) = TinyWorkload().denoiser(), inputs()
    before = torch.get_num_threads()
    TorchEager().compile(net, SHAPE, 2, threads=before + 1)(x, t)
    assert torch.get_num_threads() == before


def test_what_cannot_be_converted_is_named_in_one_sentence() -> None:
    class Custom(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            return torch.special.bessel_j0(x_t) + t.view(-1, 1, 1, 1)

    with pytest.raises(UserError, match=r"OpenVINO cannot convert this net .*another engine"):
        OpenVino().compile(Custom(), SHAPE, 2, threads=1)


def test_only_layers_below_32_bits_make_a_net_quantized() -> None:
    x, t = inputs()
    net = TinyWorkload().denoiser()
    assert not is_quantized(net)
    quantize_layers(net, Precision(), (x, t))
    assert not is_quantized(net)
    assert is_quantized(rounded(Precision(8, 8), x, t))


@pytest.mark.parametrize("shape", [(3, 12, 5, 7), (2, 12, 9)])
@pytest.mark.parametrize("affine", [True, False])
def test_the_written_out_group_norm_is_torchs(shape: tuple[int, ...], affine: bool) -> None:
    norm = nn.GroupNorm(4, 12, affine=affine).double()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    # A mean a thousand times the spread: one pass over the squares would lose the variance.
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1000
    written = ReducedGroupNorm(norm.float())(x)
    torch.testing.assert_close(written, norm.double()(x.double()).float(), rtol=1e-3, atol=1e-3)
