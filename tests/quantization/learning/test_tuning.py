"""Tuning and settling: between the two, the net goes through the very same grids."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from mini_denoiser import Example
from torch import nn

from pqbench.base.errors import UserError
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.learning.tuning import OtherGrid, TunableLayer, settle, tunable_layers, tune
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.verify import verify

Make = Callable[..., nn.Module]
PRECISIONS = ["w4a4", "w2a8", "w4a32", "w32a4", "w32a32"]


def train_a_little(net: nn.Module, example: Example, steps: int = 3) -> None:
    """A few steps that move weights, step sizes, zero-points and biases alike."""
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        net(*example).square().mean().backward()
        optimizer.step()
    net.requires_grad_(False)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("w_symmetric", [True, False])
def test_tuning_and_settling_without_training_change_nothing(
    quantized: Make, example: Example, precision: str, w_symmetric: bool
) -> None:
    net = quantized(precision, w_symmetric=w_symmetric)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    output = net(*example)
    tune(net)
    assert torch.equal(net(*example), output)
    settle(net)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(net(*example), output)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_settled_net_answers_as_the_tuned_one_did(quantized: Make, example: Example, precision: str) -> None:
    net = quantized(precision)
    untrained = net(*example)
    tune(net)
    train_a_little(net, example)
    tuned = net(*example)
    settle(net)
    verify(net)
    assert not any(isinstance(module, TunableLayer) for module in net.modules())
    torch.testing.assert_close(net(*example), tuned, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(tuned, untrained, rtol=1e-2)  # the steps did move something


def test_every_trainable_part_of_a_layer_gets_a_gradient(quantized: Make) -> None:
    for name, layer in tune(quantized("w4a4")).items():
        # A weight on a grid point does not pull at its step size, nor an input within the range at the zero-point.
        layer.weight.data.mul_(1.03)
        shape = (2, layer.weight.shape[1] * layer.layer.convolution.get("groups", 1), *[8] * (layer.weight.dim() - 2))
        layer(5 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).square().mean().backward()
        for part, parameter in layer.named_parameters():
            assert parameter.grad is not None, (name, part)
            assert parameter.grad.abs().max() > 0, (name, part)


def test_step_sizes_stay_positive_however_far_theta_goes(quantized: Make) -> None:
    net = quantized("w4a4")
    tune(net)
    for _, layer in tunable_layers(net):
        layer.weight_theta.data.fill_(-20.0)
        layer.input_theta.data.fill_(-20.0)
    settle(net)
    verify(net)


def test_a_zero_point_that_leaves_the_grid_is_kept_on_it(quantized: Make, example: Example) -> None:
    net = quantized("w4a4")
    tune(net)
    for _, layer in tunable_layers(net):
        layer.input_zero.data.fill_(17.3)
    tuned = net(*example)
    settle(net)
    verify(net)
    assert {int(layer.activation.zero_point) for _, layer in quantized_layers(net)} == {15}
    torch.testing.assert_close(net(*example), tuned)


def test_a_width_set_while_tuned_is_the_width_that_is_kept(quantized: Make, example: Example) -> None:
    net = quantized("w8a8")
    for layer in tune(net).values():
        rows = layer.weight.detach().flatten(1)
        layer.set_weight_grid(3, rows.abs().amax(1) / 3, torch.zeros(len(rows)))
        layer.set_input_grid(5, torch.tensor(0.2), torch.tensor(16))
    settle(net)
    verify(net)
    for _, layer in quantized_layers(net):
        assert (layer.w_bits, layer.activation.bits) == (3, 5)
        assert int(layer.codes.abs().max()) <= 4


@pytest.mark.parametrize("w_symmetric", [True, False])
def test_a_blend_is_the_mixture_of_both_grids(w_symmetric: bool) -> None:
    layer = nn.Linear(6, 3)
    quantized = QuantizedLayer(layer, 4, 32, w_symmetric)
    old, new = Grid(5, w_symmetric), Grid(4, w_symmetric)
    ends = layer.weight.detach().amin(1), layer.weight.detach().amax(1)
    quantized.freeze(layer.weight, *new.parameters(*ends))
    tunable = TunableLayer(quantized)
    tunable.weight.data.copy_(layer.weight.data)
    scale, zero = old.parameters(*ends)
    tunable.weight_blend = OtherGrid(old, scale, zero, 0.25)
    on_old = old.fake_quantize(layer.weight.detach(), scale[:, None], zero[:, None])
    on_new = quantized.weight
    torch.testing.assert_close(tunable.weight_on_grid(), on_new)
    torch.testing.assert_close(tunable.quantized_weight(), 0.25 * on_new + 0.75 * on_old)
    assert torch.equal(tunable.settled().weight, on_new)


def test_a_layer_trained_to_nan_is_not_settled(quantized: Make) -> None:
    net = quantized("w4a4")
    for layer in tune(net).values():
        layer.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        settle(net)


def test_the_tuned_weight_is_a_copy(quantized: Make, example: Example) -> None:
    net = quantized("w4a4")
    teacher = copy.deepcopy(net)
    output = teacher(*example)
    tune(net)
    train_a_little(net, example)
    settle(net)
    assert torch.equal(teacher(*example), output)
