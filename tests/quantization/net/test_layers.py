"""Quantized layers against torch's own operations in float64 on values that are put on the grid by hand."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.quantization.net.layers import ActivationQuantizer, QuantizedLayer, replace_module
from pqbench.quantization.ranges.rules import minmax, rows

LAYERS = {
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 7)),
    "strided": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=(1, 0), bias=False), (2, 4, 7, 7)),
    "dilated, grouped": (lambda: nn.Conv2d(4, 6, 3, dilation=2, groups=2, padding="same"), (2, 4, 7, 7)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5, padding=2), (2, 4, 9)),
    "linear": (lambda: nn.Linear(5, 3), (2, 4, 5)),
}


def by_hand(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Fake quantization in float64."""
    scale, zero = scale.double(), zero.double()
    return (torch.clamp(torch.round(x.double() / scale) + zero, low, high) - zero) * scale


def frozen(
    layer: nn.Module, w_bits: int, a_bits: int, w_symmetric: bool = True, a_symmetric: bool = False
) -> QuantizedLayer:
    quantized = QuantizedLayer(layer, w_bits, a_bits, w_symmetric, a_symmetric)
    if quantized.grid is not None:
        quantized.freeze(layer.weight, *minmax(rows(layer.weight.detach(), True), quantized.grid))
    if quantized.activation.grid is not None:
        ends = torch.tensor(-1.7), torch.tensor(2.9)
        quantized.activation.set(*quantized.activation.grid.parameters(*ends))
    return quantized


@pytest.fixture(params=LAYERS)
def layer_and_input(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make(), torch.randn(shape)


@pytest.mark.parametrize(("w_bits", "a_bits"), [(2, 8), (4, 4), (8, 8), (4, 32), (32, 4)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_forward_is_the_operation_on_quantized_values(
    layer_and_input: tuple[nn.Module, Tensor], w_bits: int, a_bits: int, symmetric: bool
) -> None:
    layer, x = layer_and_input
    quantized = frozen(layer, w_bits, a_bits, symmetric, symmetric)
    weight, grid = layer.weight.detach().double(), quantized.grid
    if grid is not None:
        scale, zero = minmax(rows(layer.weight.detach(), True), grid)
        columns = [v.view(-1, *[1] * (weight.dim() - 1)) for v in (scale, zero)]
        weight = by_hand(weight, *columns, grid.low, grid.high)
    inputs, grid = x.double(), quantized.activation.grid
    if grid is not None:
        inputs = by_hand(x, quantized.activation.scale, quantized.activation.zero_point, grid.low, grid.high)
    reference = copy.deepcopy(layer).double()
    reference.weight.data = weight
    # The reference pads after quantizing: zeros stay zeros although the grid is asymmetric.
    torch.testing.assert_close(quantized(x).double(), reference(inputs), rtol=1e-4, atol=1e-5)


def test_at_full_precision_it_is_the_identity(layer_and_input: tuple[nn.Module, Tensor]) -> None:
    layer, x = layer_and_input
    assert torch.equal(frozen(layer, 32, 32)(x), layer(x))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_take_the_smallest_type_and_no_more_values_than_their_bits(bits: int, symmetric: bool) -> None:
    layer = nn.Conv2d(16, 3, 5)
    quantized = frozen(layer, bits, 8, symmetric)
    assert quantized.codes.dtype == (torch.int8 if symmetric else torch.uint8)
    for channel in quantized.weight:
        assert len(channel.unique()) <= 2**bits
    reached = int(quantized.codes.min()), int(quantized.codes.max())
    ends = quantized.grid.low, quantized.grid.high
    assert set(reached) & set(ends)
    if not symmetric:
        assert reached == ends


def test_a_weight_on_the_grid_is_frozen_to_itself(layer_and_input: tuple[nn.Module, Tensor]) -> None:
    layer, _ = layer_and_input
    quantized = frozen(layer, 4, 4, w_symmetric=False)
    again = copy.deepcopy(quantized)
    again.freeze(quantized.weight, quantized.weight_scale, quantized.weight_zero)
    assert torch.equal(again.codes, quantized.codes)
    assert torch.equal(again.weight, quantized.weight)


@pytest.mark.parametrize("w_bits", [4, 32])
def test_the_state_brings_back_the_layer(layer_and_input: tuple[nn.Module, Tensor], w_bits: int) -> None:
    layer, x = layer_and_input
    quantized = frozen(layer, w_bits, 4)
    other = QuantizedLayer(copy.deepcopy(layer), w_bits, 4)
    with torch.no_grad():
        other.freeze(torch.zeros_like(layer.weight), torch.ones(len(layer.weight)), torch.zeros(len(layer.weight)))
    other.load_state_dict(quantized.state_dict())
    assert torch.equal(other(x), quantized(x))
    assert ("weight" in quantized.state_dict()) == (w_bits == 32)


def test_the_width_of_a_layer_may_change_between_freezes() -> None:
    layer = nn.Linear(5, 3)
    quantized = frozen(layer, 32, 4)
    quantized.w_bits = 4
    quantized.freeze(layer.weight, *minmax(layer.weight.detach(), quantized.grid))
    assert "codes" in quantized.state_dict()
    assert "weight" not in quantized.state_dict()


def test_gradients_pass_straight_through_inside_the_range() -> None:
    quantizer = ActivationQuantizer(4)
    quantizer.set(torch.tensor(0.25), torch.tensor(5))
    x = torch.linspace(-4, 4, 101, requires_grad=True)
    kernel_x = x.detach().clone().requires_grad_()
    kernel = torch.fake_quantize_per_tensor_affine(kernel_x, quantizer.scale, quantizer.zero_point, 0, 15)
    moved = quantizer(x)
    (moved * moved).sum().backward()
    (kernel * kernel).sum().backward()
    torch.testing.assert_close(moved, kernel)
    torch.testing.assert_close(x.grad, kernel_x.grad)
    with torch.no_grad():
        assert torch.equal(quantizer(x), moved)


def test_exporters_find_one_fake_quantize_operation() -> None:
    quantized = frozen(nn.Linear(5, 3), 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.trace is what OpenVINO still uses
        traced = torch.jit.trace(quantized, torch.randn(1, 5))
    assert "fake_quantize_per_tensor_affine" in str(traced.inlined_graph)


def test_nan_in_the_input_comes_out() -> None:
    x = torch.randn(2, 5)
    x[0, 0] = float("nan")
    result = frozen(nn.Linear(5, 3), 4, 4)(x)
    assert torch.isnan(result[0]).all()
    assert torch.isfinite(result[1]).all()


@pytest.mark.parametrize("w_bits", [4, 32])
def test_nan_weights_are_refused(w_bits: int) -> None:
    layer = nn.Linear(5, 3)
    quantized = QuantizedLayer(layer, w_bits, 4)
    weight = layer.weight.detach().clone()
    weight[1, 2] = float("nan")
    with pytest.raises(UserError, match="diverged"):
        quantized.freeze(weight, torch.ones(3), torch.zeros(3))


def test_impossible_grids_are_refused() -> None:
    layer = nn.Linear(5, 3)
    quantized = QuantizedLayer(layer, 4, 4)
    with pytest.raises(UserError, match="scale"):
        quantized.freeze(layer.weight, torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3))
    with pytest.raises(UserError, match="zero-point"):
        quantized.activation.set(torch.tensor(1.0), torch.tensor(16))


def test_other_padding_is_refused() -> None:
    with pytest.raises(UserError, match="reflect padding"):
        QuantizedLayer(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), 4, 4)


def test_a_subclass_is_the_operation_that_it_extends() -> None:
    class MyLinear(nn.Linear):
        pass

    layer, x = MyLinear(5, 3), torch.randn(2, 5)
    quantized = QuantizedLayer(layer, 32, 32)
    assert quantized.operation == "Linear"
    assert torch.equal(quantized(x), layer(x))


def test_layers_in_containers_are_replaced_in_place() -> None:
    net = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]), nn.Sequential(nn.Linear(2, 2)))
    for name in ("0.0", "1.0"):
        replace_module(net, name, nn.Identity())
        assert isinstance(net.get_submodule(name), nn.Identity)
    assert len(list(net.modules())) == 5
