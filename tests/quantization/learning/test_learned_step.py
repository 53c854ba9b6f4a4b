"""Learned step sizes against torch's own learnable fake quantization, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.learning.learned_step import learned_fake_quantize, learned_zero_point

GRIDS = [Grid(bits, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)]


def example(grid: Grid, channels: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x of which a good part is clipped, scale, zero-point (one each, or one a channel), and a gradient from above."""
    generator = torch.Generator().manual_seed(grid.bits)
    x = 3 * torch.randn(max(channels, 1), 5, 40, generator=generator, dtype=torch.float64)
    shape = (channels, 1, 1) if channels else ()
    scale = 4 / (grid.high - grid.low) * (1 + torch.rand(shape, generator=generator, dtype=torch.float64))
    middle = 0 if grid.symmetric else (grid.high + 1) // 3
    zero = torch.full(shape, float(middle), dtype=torch.float64)
    upstream = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), scale.to(dtype), zero.to(dtype), upstream.to(dtype)


def gradients(x: Tensor, scale: Tensor, zero: Tensor, upstream: Tensor, grid: Grid) -> tuple[Tensor, ...]:
    leaves = [value.clone().requires_grad_() for value in (x, scale, zero)]
    moved = learned_fake_quantize(*leaves, grid)
    return moved.detach(), *torch.autograd.grad(moved, leaves, upstream)


@given(
    grid=st.sampled_from(GRIDS),
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    scale=st.floats(0.0009765625, 100, width=32),
    share=st.floats(0, 1),
)
def test_the_forward_is_that_of_the_grid(grid: Grid, values: list[float], scale: float, share: float) -> None:
    x = torch.tensor(values)
    zero = torch.tensor(0.0 if grid.symmetric else float(round(share * grid.high)))
    step = torch.tensor(scale)
    moved = learned_fake_quantize(x, step, zero, grid)
    assert torch.equal(moved, grid.fake_quantize(x, step, zero))
    assert torch.equal(moved, grid.dequantize(grid.quantize(x, step, zero), step, zero))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_per_tensor_gradients_are_those_of_torch(grid: Grid) -> None:
    x, scale, zero, upstream = example(grid)
    leaves = [x.clone().requires_grad_(), scale.reshape(1).requires_grad_(), zero.reshape(1).requires_grad_()]
    reference = torch._fake_quantize_learnable_per_tensor_affine(*leaves, grid.low, grid.high, 1.0)
    expected = torch.autograd.grad(reference, leaves, upstream)
    moved, to_x, to_scale, to_zero = gradients(x, scale, zero, upstream, grid)
    torch.testing.assert_close(moved, reference)
    torch.testing.assert_close(to_x, expected[0])
    torch.testing.assert_close(to_scale, expected[1].squeeze(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(to_zero, expected[2].squeeze(), rtol=1e-4, atol=1e-4)
    assert 0 < int((to_x == 0).sum()) < to_x.numel()  # some values were clipped, some were not


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_per_channel_gradients_are_those_of_torch(grid: Grid) -> None:
    x, scale, zero, upstream = example(grid, channels=3)
    leaves = [x.clone().requires_grad_(), scale.flatten().requires_grad_(), zero.flatten().requires_grad_()]
    reference = torch._fake_quantize_learnable_per_channel_affine(*leaves, 0, grid.low, grid.high, 1.0)
    expected = torch.autograd.grad(reference, leaves, upstream)
    moved, to_x, to_scale, to_zero = gradients(x, scale, zero, upstream, grid)
    torch.testing.assert_close(moved, reference)
    torch.testing.assert_close(to_x, expected[0])
    torch.testing.assert_close(to_scale.flatten(), expected[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(to_zero.flatten(), expected[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("channels", [0, 3])
def test_gradients_are_the_slopes_of_the_surrogate(grid: Grid, channels: int) -> None:
    """The straight-through surrogate holds the rounding error fixed: between its kinks it is smooth, and its finite
    differences in x, in the scale and in the zero-point are the gradients, in float64."""
    x, scale, zero, upstream = example(grid, channels, torch.float64)
    error = torch.round(x / scale) - x / scale

    def surrogate(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        return (torch.clamp(x / scale + error + zero, grid.low, grid.high) - zero) * scale

    # A code exactly on a bound is a kink of the surrogate (one-sided slopes differ): those values are left out.
    code = torch.round(x / scale) + zero
    upstream = torch.where((code == grid.low) | (code == grid.high), 0.0, upstream)
    moved, *found = gradients(x, scale, zero, upstream, grid)
    torch.testing.assert_close(moved, surrogate(x, scale, zero))
    values = [x, scale, zero]
    step = 1e-6
    for which, gradient in enumerate(found):
        direction = torch.randn(values[which].shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        ends = [
            surrogate(*(v + sign * step * direction if i == which else v for i, v in enumerate(values)))
            for sign in (1, -1)
        ]
        slope = ((ends[0] - ends[1]) * upstream).sum() / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-6)


def test_float64_stays_float64() -> None:
    results = gradients(*example(Grid(4), dtype=torch.float64), Grid(4))
    assert {result.dtype for result in results} == {torch.float64}


def test_only_clipped_values_pull_at_the_zero_point() -> None:
    grid = Grid(4)
    x = torch.tensor([-100.0, 0.3, 0.9, 100.0])
    for i, expected in enumerate([-0.1, 0.0, 0.0, -0.1]):
        upstream = torch.zeros(4)
        upstream[i] = 1
        _, _, _, to_zero = gradients(x, torch.tensor(0.1), torch.tensor(3.0), upstream, grid)
        assert float(to_zero) == pytest.approx(expected)


def zero_point(latent: Tensor) -> Tensor:
    return learned_zero_point(latent, Grid(4, False), torch.ones_like(latent))


def test_a_zero_point_is_whole_and_passes_gradients_straight_through() -> None:
    x = torch.tensor([1.6, 0.4, 2.5], requires_grad=True)
    rounded = zero_point(x)
    (rounded * torch.tensor([1.0, -2.0, 3.0])).sum().backward()
    assert torch.equal(rounded, torch.tensor([2.0, 0.0, 2.0]))
    assert torch.equal(x.grad, torch.tensor([1.0, -2.0, 3.0]))


@pytest.mark.parametrize(("start", "goal"), [(-2.5, 4.0), (19.0, 11.0)])
def test_a_latent_zero_point_outside_the_grid_comes_back(start: float, goal: float) -> None:
    latent = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.Adam([latent], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        (zero_point(latent) - goal).square().backward()
        optimizer.step()
    assert float(zero_point(latent).detach()) == pytest.approx(goal, abs=1)


def test_nothing_draws_a_zero_point_farther_out_of_the_grid() -> None:
    latent = torch.tensor([0.0, -1.0, 15.0, 16.0], requires_grad=True)
    (zero_point(latent) * torch.tensor([1.0, 1.0, -1.0, -1.0])).sum().backward()
    assert torch.equal(latent.grad, torch.zeros(4))
