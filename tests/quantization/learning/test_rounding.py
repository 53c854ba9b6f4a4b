"""AdaRound against its formulas in float64, finite differences, autograd, and an exhaustive search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.learning.rounding import (
    RoundingLayer,
    RoundingPressure,
    SoftRounding,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
    regulariser_slope,
    rounding_layers,
    rounding_regulariser,
    settle_rounding,
    start_rounding,
)
from pqbench.quantization.net.layers import QuantizedLayer
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.rules import minmax, rows

GRIDS = [Grid(bits, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)]


def example(grid: Grid, shape: tuple[int, ...] = (3, 5, 2, 2)) -> tuple[Tensor, Tensor, Tensor]:
    """A float64 weight of which some lies beyond the grid, and scales and zero-points a channel."""
    generator = torch.Generator().manual_seed(grid.bits)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    column = (shape[0], *[1] * (len(shape) - 1))
    scale = 3 / (grid.high - grid.low) * (1 + torch.rand(column, generator=generator, dtype=torch.float64))
    zero = torch.full(column, 0.0 if grid.symmetric else float((grid.high + 1) // 2), dtype=torch.float64)
    return weight, scale, zero


@given(st.floats(-30, 30))
def test_the_rectified_sigmoid_is_that_of_the_paper(v: float) -> None:
    expected = min(max(1.2 / (1 + math.exp(-v)) - 0.1, 0), 1)
    assert float(rectified_sigmoid(torch.tensor(v, dtype=torch.float64))) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0, 1))
def test_its_inverse(h: float) -> None:
    v = inverse_rectified_sigmoid(torch.tensor(h, dtype=torch.float64))
    assert float(rectified_sigmoid(v)) == pytest.approx(h, abs=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_it_begins_at_the_float_weight_within_the_grid(grid: Grid) -> None:
    weight, scale, zero = example(grid)
    low, high = (grid.low - zero) * scale, (grid.high - zero) * scale
    expected = torch.minimum(torch.maximum(weight, low), high)
    assert bool((expected != weight).any())  # some weights are beyond it
    torch.testing.assert_close(SoftRounding(weight, scale, zero, grid)().detach(), expected)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_gradient_is_the_slope_by_finite_differences(grid: Grid) -> None:
    soft = SoftRounding(*example(grid), grid)
    generator = torch.Generator().manual_seed(5)
    upstream, direction = (torch.randn(soft.v.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    (soft() * upstream).sum().backward()
    found = soft.v.grad
    assert found is not None
    start, step = soft.v.detach().clone(), 1e-6
    ends = []
    for sign in (1, -1):
        soft.v.data = start + sign * step * direction
        ends.append((soft().detach() * upstream).sum())
    torch.testing.assert_close((found * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("beta", [20.0, 7.3, 2.0])
def test_the_regulariser_and_its_gradient_are_those_of_autograd(beta: float) -> None:
    soft = SoftRounding(*example(Grid(4)), Grid(4))
    v = soft.v.detach().clone().requires_grad_()
    h = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
    expected = (1 - (2 * h - 1).abs() ** beta).sum()
    (gradient,) = torch.autograd.grad(0.3 * expected, v)
    torch.testing.assert_close(rounding_regulariser(h.detach(), beta), expected.detach())
    torch.testing.assert_close(soft.regulariser(beta), expected.detach())
    soft().sum().backward()
    assert soft.v.grad is not None
    before = soft.v.grad.clone()
    soft.add_regulariser_gradient(beta, 0.3)
    torch.testing.assert_close(soft.v.grad - before, gradient, rtol=1e-6, atol=1e-9)


def test_the_regulariser_is_flat_in_the_middle_and_pushes_outwards() -> None:
    h = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    slope = regulariser_slope(h, 2.0)
    assert slope[2] == 0
    assert slope[1] > 0 > slope[3]  # minimised by moving away from 0.5


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_codes_are_the_floor_and_one_more_where_h_is_at_least_a_half(grid: Grid) -> None:
    weight, scale, zero = example(grid)
    soft = SoftRounding(weight, scale, zero, grid)
    soft.v.data = torch.randn(soft.v.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    soft.v.data.view(-1)[0] = 0
    h = np.clip(1.2 / (1 + np.exp(-soft.v.detach().numpy())) - 0.1, 0, 1)
    up = h >= 0.5 - 1e-12
    expected = np.clip(np.floor((weight / scale).numpy()) + up + zero.numpy(), grid.low, grid.high)
    assert np.array_equal(soft.codes().numpy(), expected)


@given(
    grid=st.sampled_from(GRIDS),
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20),
    scale=st.floats(0.0009765625, 10, width=32),
)
def test_untouched_it_rounds_to_nearest(grid: Grid, values: list[float], scale: float) -> None:
    weight, step = torch.tensor(values, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
    zero = torch.tensor(0.0 if grid.symmetric else 1.0)
    codes = SoftRounding(weight, step, zero, grid).codes()
    nearest = (codes - zero) * step
    best = grid.fake_quantize(weight, step, zero)
    # Equally near where a weight is half-way between two codes.
    torch.testing.assert_close((nearest - weight).abs(), (best - weight).abs(), rtol=1e-9, atol=1e-9)


def test_scales_a_group_broadcast_as_well() -> None:
    grid, weight = Grid(4), torch.randn(4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scale = torch.rand(4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    wide = scale.repeat_interleave(4, 1)
    zero = torch.full((4, 8), 8.0, dtype=torch.float64)
    together = SoftRounding(weight, wide, zero, grid)
    for g in range(2):
        part = slice(4 * g, 4 * g + 4)
        alone = SoftRounding(weight[:, part], scale[:, g : g + 1], zero[:, :1], grid)
        torch.testing.assert_close(together()[:, part], alone())
        assert torch.equal(together.codes()[:, part], alone.codes())


def rounding_layer(bits: int = 4, symmetric: bool = False, seed: int = 0) -> tuple[RoundingLayer, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = nn.Conv2d(3, 4, 3)
    weight = layer.weight.detach()
    quantized = QuantizedLayer(layer, bits, 32, symmetric)
    quantized.freeze(weight, *minmax(rows(weight, True), Grid(bits, symmetric)))
    return RoundingLayer(quantized, weight), weight


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_settled_layer_answers_as_the_decided_one(symmetric: bool) -> None:
    layer, _ = rounding_layer(symmetric=symmetric)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    layer.rounding.v.data = torch.where(layer.rounding.v.data > 0, -8.0, 8.0)  # the farther side throughout
    decided = layer(x).detach()
    settled = layer.settled()
    verify(nn.Sequential(settled))
    torch.testing.assert_close(settled(x), decided, rtol=1e-5, atol=1e-6)


def test_a_layer_with_groups_is_rounded_on_the_scales_of_its_groups() -> None:
    linear, grid = nn.Linear(8, 3), Grid(4)
    weight = linear.weight.detach()
    quantized = QuantizedLayer(linear, 4, 32, False, group_size=4)
    scale, zero = minmax(weight.reshape(6, 4), grid)
    quantized.freeze(weight, scale.view(3, 2), zero.view(3, 2))
    before = quantized.codes.clone()
    layer = RoundingLayer(quantized, weight)
    low, high = (-zero * scale)[:, None], ((15 - zero) * scale)[:, None]  # the rounded zero-point moves both ends
    within = torch.minimum(torch.maximum(weight.reshape(6, 4), low), high).view(3, 8)
    torch.testing.assert_close(layer.rounding().detach(), within, rtol=1e-4, atol=1e-5)
    settled = layer.settled()
    verify(nn.Sequential(settled))
    assert torch.equal(settled.codes, before)
    assert torch.equal(settled.weight_scale, scale.view(3, 2))


def test_only_what_is_asked_for_is_replaced() -> None:
    net = nn.ModuleDict({name: rounding_layer()[0].settled() for name in ("block", "blocks", "other")})
    weights = {name: net.get_submodule(name).weight.clone() for name in ("block", "blocks")}
    assert set(start_rounding(net, weights, "block")) == {"block"}
    assert [name for name, _ in rounding_layers(net)] == ["block"]
    settle_rounding(net)
    assert set(start_rounding(net, weights)) == {"block", "blocks"}
    settle_rounding(net)
    verify(net)


def test_the_pressure_sets_in_after_the_warm_up_and_sharpens_linearly() -> None:
    layer, _ = rounding_layer()
    pressure = RoundingPressure([layer.rounding], 100, weight=0.5, warmup=0.2)
    assert [pressure.beta(i) for i in (0, 19)] == [None, None]
    assert pressure.value(19) == 0
    assert [pressure.beta(i) for i in (20, 60, 99)] == pytest.approx([20.0, 11.0, 2 + 18 / 80])
    layer(torch.ones(1, 3, 4, 4)).sum().backward()
    before = layer.rounding.v.grad.clone()
    pressure.add_gradient(19)
    assert torch.equal(layer.rounding.v.grad, before)
    pressure.add_gradient(60)
    assert not torch.equal(layer.rounding.v.grad, before)
    assert pressure.value(60) == pytest.approx(0.5 * float(layer.rounding.regulariser(11.0)))
