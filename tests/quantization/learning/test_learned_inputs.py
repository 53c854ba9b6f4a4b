"""Learned step sizes of activations, in the place of the quantizers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mini_denoiser import Example
from torch import nn

from pqbench.quantization.learning.learned_inputs import (
    LearnedInput,
    learned_inputs,
    settle_inputs,
    start_learning_inputs,
)
from pqbench.quantization.net.layers import ActivationQuantizer, quantized_layers
from pqbench.quantization.net.verify import verify

Make = Callable[..., nn.Module]


@pytest.mark.parametrize("symmetric", [True, False])
def test_values_and_gradients_are_those_of_torch(symmetric: bool) -> None:
    quantizer = ActivationQuantizer(4, symmetric)
    quantizer.set(torch.tensor(0.3), torch.tensor(0 if symmetric else 5))
    learned, grid = LearnedInput(quantizer), quantizer.grid
    assert grid is not None
    x = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    leaves = [x.clone().requires_grad_(), quantizer.scale.reshape(1).clone().requires_grad_()]
    zero = quantizer.zero_point.float().reshape(1)
    reference = torch._fake_quantize_learnable_per_tensor_affine(*leaves, zero, grid.low, grid.high, 1.0)
    expected = torch.autograd.grad(reference, leaves, upstream)
    own = x.clone().requires_grad_()
    moved = learned(own)
    torch.testing.assert_close(moved, reference)
    found = torch.autograd.grad(moved, [own, learned.step], upstream)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1].squeeze(), rtol=1e-4, atol=1e-4)


def test_without_learning_nothing_changes(quantized: Make, example: Example) -> None:
    net = quantized("w4a4")
    before, output = {k: v.clone() for k, v in net.state_dict().items()}, net(*example)
    assert len(start_learning_inputs(net)) == len(list(quantized_layers(net)))
    assert torch.equal(net(*example), output)
    settle_inputs(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_settled_net_answers_as_the_learning_one_did(quantized: Make, example: Example) -> None:
    net = quantized("w4a4")
    untouched = net(*example)
    for learned in start_learning_inputs(net).values():
        learned.step.data.mul_(1.3)
    learning = net(*example).detach()
    settle_inputs(net)
    verify(net)
    assert not list(learned_inputs(net))
    torch.testing.assert_close(net(*example), learning)
    assert not torch.allclose(learning, untouched, rtol=1e-2)


def test_a_step_size_stays_positive_however_far_it_is_pushed(quantized: Make) -> None:
    net = quantized("w4a4")
    scales = {name: layer.activation.scale.clone() for name, layer in quantized_layers(net)}
    for learned in start_learning_inputs(net).values():
        learned.step.data.fill_(-5.0)
    settle_inputs(net)
    verify(net)
    for name, layer in quantized_layers(net):
        torch.testing.assert_close(layer.activation.scale, 0.1 * scales[name])


@pytest.mark.parametrize("start", [1 / 255, 0.04, 0.3])
def test_adam_moves_no_step_size_by_more_than_twenty_times_its_rate(start: float) -> None:
    quantizer = ActivationQuantizer(8)
    quantizer.set(torch.tensor(start), torch.tensor(0))
    learned, rate = LearnedInput(quantizer), 1e-3
    optimizer = torch.optim.Adam([learned.step], lr=rate)
    for iteration in range(1, 6):
        optimizer.zero_grad()
        learned.used().backward()  # pushed down as hard as can be
        optimizer.step()
        moved = 1 - float(learned.used().detach()) / start
        assert moved <= 20 * rate * iteration * 1.01
        assert moved >= min(rate / start, 10 * rate) * iteration * 0.99


def test_full_precision_inputs_are_left_alone(quantized: Make) -> None:
    assert start_learning_inputs(quantized("w4a32")) == {}


def test_only_inputs_below_the_module_are_replaced(quantized: Make) -> None:
    net = quantized("w4a4")
    assert set(start_learning_inputs(net, "attention")) == {"attention.qkv.activation", "attention.out.activation"}


def test_a_grid_a_token_has_no_step_size_to_learn() -> None:
    assert start_learning_inputs(nn.Sequential(ActivationQuantizer(4, dynamic=True))) == {}
