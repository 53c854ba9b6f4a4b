"""Grids against torch's kernel and a float64 implementation, and what every grid promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pqbench.base.errors import UserError
from pqbench.quantization.grids.grid import Grid, per_channel

grids = st.builds(Grid, st.integers(2, 8), st.booleans())
values = arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e4, 1e4, width=32)).map(torch.from_numpy)


def fitted(x: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    return grid.parameters(x.min(), x.max())


def test_codes_of_each_kind() -> None:
    assert (Grid(4, symmetric=True).low, Grid(4, symmetric=True).high) == (-8, 7)
    assert (Grid(4).low, Grid(4).high) == (0, 15)
    assert (Grid(8, symmetric=True).dtype, Grid(8).dtype) == (torch.int8, torch.uint8)
    for bits in range(2, 9):
        for symmetric in (True, False):
            grid = Grid(bits, symmetric)
            assert grid.high - grid.low + 1 == 2**bits
            info = torch.iinfo(grid.dtype)
            assert info.min <= grid.low < grid.high <= info.max


@pytest.mark.parametrize("bits", [0, 1, 9, 32])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(UserError, match="2 to 8 bits"):
        Grid(bits)


@given(values, grids)
def test_inside_the_range_the_error_is_half_a_step(x: torch.Tensor, grid: Grid) -> None:
    scale, zero = fitted(x, grid)
    error = (grid.fake_quantize(x, scale, zero).double() - x.double()).abs()
    assert float(error.max()) <= float(scale) / 2 * (1 + 1e-4)


@given(values, grids)
def test_zero_is_exact_and_values_stay_where_they_are_put(x: torch.Tensor, grid: Grid) -> None:
    scale, zero = fitted(x, grid)
    assert float(grid.fake_quantize(torch.zeros(1), scale, zero)) == 0
    once = grid.fake_quantize(x, scale, zero)
    assert torch.equal(grid.fake_quantize(once, scale, zero), once)


@given(values, grids)
def test_order_is_kept(x: torch.Tensor, grid: Grid) -> None:
    scale, zero = fitted(x[: len(x) // 2 + 1], grid)
    moved = grid.fake_quantize(x.sort().values, scale, zero)
    assert bool((moved.diff() >= 0).all())


@given(values, grids, st.floats(0.1, 3))
def test_codes_are_those_of_float64_and_of_torchs_kernel(x: torch.Tensor, grid: Grid, shrink: float) -> None:
    scale, zero = grid.parameters(x.min() * shrink, x.max() * shrink)
    ratio = x.double().numpy() / float(scale)
    # Between two codes float32 may decide either way; elsewhere there is one right answer.
    decided = np.abs(np.abs(ratio - np.floor(ratio)) - 0.5) > 1e-3
    expected = np.clip(np.round(ratio) + int(zero), grid.low, grid.high)
    codes = grid.quantize(x, scale, zero)
    np.testing.assert_array_equal(codes.numpy()[decided], expected[decided])
    kernel = torch.fake_quantize_per_tensor_affine(x, scale, zero, grid.low, grid.high)
    moved = grid.fake_quantize(x, scale, zero)
    torch.testing.assert_close(moved[torch.from_numpy(decided)], kernel[torch.from_numpy(decided)])


@given(values, grids)
def test_a_scalar_and_a_vector_of_parameters_do_the_same(x: torch.Tensor, grid: Grid) -> None:
    scale, zero = fitted(x, grid)
    assert torch.equal(grid.fake_quantize(x, scale, zero), grid.fake_quantize(x, scale[None], zero[None]))
    assert torch.equal(grid.fake_quantize(x, scale, zero), grid.dequantize(grid.quantize(x, scale, zero), scale, zero))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-44])
def test_a_constant_input_is_kept(symmetric: bool, value: float) -> None:
    x = torch.full((4,), value)
    grid = Grid(4, symmetric)
    scale, zero = fitted(x, grid)
    assert float(scale) > 0
    torch.testing.assert_close(grid.fake_quantize(x, scale, zero), x)


def test_per_channel_parameters_belong_to_the_first_axis() -> None:
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    grid = Grid(3, symmetric=True)
    scale, zero = grid.parameters(x.amin((1, 2)), x.amax((1, 2)))
    together = grid.fake_quantize(x, per_channel(scale, x), per_channel(zero, x))
    kernel = torch.fake_quantize_per_channel_affine(x, scale, zero, 0, grid.low, grid.high)
    torch.testing.assert_close(together, kernel)


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=st.floats(-1e4, 1e4, width=32)), grids
)
def test_every_channel_is_as_in_torchs_kernel_and_in_float64(x: np.ndarray, grid: Grid) -> None:
    weight = torch.from_numpy(x)
    scale, zero = grid.parameters(weight.flatten(1).amin(1), weight.flatten(1).amax(1))
    together = grid.fake_quantize(weight, per_channel(scale, weight), per_channel(zero, weight))
    kernel = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, grid.low, grid.high)
    for channel, row in enumerate(x.astype(np.float64)):
        step, shift = float(scale[channel]), int(zero[channel])
        low, high = min(row.min(), 0.0), max(row.max(), 0.0)
        full = max(high / grid.high, low / grid.low) if grid.symmetric else (high - low) / (grid.high - grid.low)
        assert step == pytest.approx(full if full >= np.finfo(np.float32).tiny else 1.0, rel=1e-6)
        expected = (np.clip(np.round(row / step) + shift, grid.low, grid.high) - shift) * step
        decided = np.abs(np.abs(row / step - np.floor(row / step)) - 0.5) > 1e-3
        np.testing.assert_allclose(together[channel].numpy()[decided], expected[decided], rtol=1e-5)
        np.testing.assert_allclose(kernel[channel].numpy()[decided], expected[decided], rtol=1e-5)


def test_nan_is_not_hidden() -> None:
    x = torch.tensor([float("nan"), 1.0, float("inf"), -float("inf")])
    for zero in (torch.tensor(3), torch.tensor([3])):
        moved = Grid(4).fake_quantize(x, torch.tensor(0.5), zero)
        assert torch.isnan(moved).tolist() == [True, False, False, False]
        assert moved[2:].tolist() == [6.0, -1.5]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(UserError, match="scale"):
        Grid(4).require(torch.tensor([1.0, scale]), torch.tensor([0, 0]))


@pytest.mark.parametrize(("symmetric", "zero"), [(False, 16), (False, -1), (True, 1)])
def test_impossible_zero_points_are_refused(symmetric: bool, zero: int) -> None:
    with pytest.raises(UserError, match="zero-point"):
        Grid(4, symmetric).require(torch.tensor([1.0]), torch.tensor([zero]))
