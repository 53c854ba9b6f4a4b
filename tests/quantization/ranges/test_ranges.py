"""Ranges against numpy and against a plain loop over the candidates in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.ranges.rules import lp_search, lp_search_2d, minmax, percentile, rows

grids = st.builds(Grid, st.integers(2, 8), st.booleans())


def heavy_tailed(channels: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, count, generator=generator) ** 3 + 0.3


def reference_error(x: np.ndarray, scale: float, zero: float, grid: Grid, p: float) -> float:
    moved = (np.clip(np.round(x / scale) + zero, grid.low, grid.high) - zero) * scale
    return float(np.mean(np.abs(moved - x) ** p))


def reference_search(x: np.ndarray, grid: Grid, p: float, candidates: int) -> float:
    """The least error over all candidates, one after the other."""
    errors = []
    for i in range(candidates):
        low, high = min(x.min(), 0) * (1 - i / candidates), max(x.max(), 0) * (1 - i / candidates)
        if grid.symmetric:
            scale, zero = max(high / grid.high, low / grid.low), 0.0
        else:
            scale = (high - low) / (grid.high - grid.low)
            zero = np.clip(np.round(-low / scale), grid.low, grid.high)
        errors.append(reference_error(x, scale, zero, grid, p))
    return min(errors)


@settings(max_examples=25)
@given(grids, st.integers(1, 4), st.integers(2, 60), st.sampled_from([1.0, 2.0, 2.4]), st.integers(0, 1000))
def test_the_search_finds_the_best_candidate(grid: Grid, channels: int, count: int, p: float, seed: int) -> None:
    x = heavy_tailed(channels, count, seed)
    scale, zero = lp_search(x, grid, p, candidates=20)
    assert scale.shape == zero.shape == (channels,)
    for row in range(channels):
        values = x[row].double().numpy()
        found = reference_error(values, float(scale[row]), float(zero[row]), grid, p)
        best = reference_search(values, grid, p, 20)
        # float32 decides some ties otherwise, which moves single values by a step but never the sum by much.
        assert found <= best * 1.01 + 1e-9


def test_the_search_beats_the_full_range_where_there_are_outliers() -> None:
    x = torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([50.0])])[None]
    grid = Grid(4)
    errors = {}
    for name, (scale, zero) in {"minmax": minmax(x, grid), "search": lp_search(x, grid, 1.0)}.items():
        errors[name] = reference_error(x[0].double().numpy(), float(scale), float(zero), grid, 1.0)
    assert errors["search"] < 0.7 * errors["minmax"]


def test_slices_of_the_search_do_not_matter() -> None:
    """Rows that are searched together (in many slices) get what each gets alone."""
    x = heavy_tailed(12, 10_000, 3)
    grid = Grid(4, symmetric=True)
    scale, _ = lp_search(x, grid)
    alone = torch.cat([lp_search(row[None], grid)[0] for row in x[:3]])
    assert torch.equal(scale[:3], alone)


def test_the_sample_of_a_long_row_stands_for_all_of_it() -> None:
    x = heavy_tailed(1, 200_000, 1)
    grid = Grid(6)
    scale, zero = lp_search(x, grid, candidates=20)
    values = x[0].double().numpy()
    found = reference_error(values, float(scale), float(zero), grid, 2.4)
    assert found <= reference_search(values, grid, 2.4, 20) * 1.3


def reference_search_2d(x: np.ndarray, grid: Grid, p: float, candidates: int) -> float:
    """The least error over all pairs of a width and a zero-point, one after the other."""
    full = (x.max() - x.min()) / (grid.high - grid.low)
    return min(
        reference_error(x, full * i / candidates, float(zero), grid, p)
        for i in range(1, candidates + 1)
        for zero in range(grid.low, grid.high + 1)
    )


DISTRIBUTIONS = {
    "normal": lambda normal: normal,
    "cubed": lambda normal: normal**3 + 0.3,
    "fifth power": lambda normal: normal**5,
    "after SiLU": lambda normal: torch.nn.functional.silu(2 * normal),
    "two lumps": lambda normal: torch.where(normal < 2, 0.1 * normal, 20 + normal),
    "an outlier": lambda normal: torch.where(torch.arange(normal.shape[1]) == 7, 50.0, 0.05 * normal),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("count", [60, 2000])
def test_both_searches_find_the_best_candidate_of_long_rows(name: str, bits: int, count: int) -> None:
    """Long rows go through histograms first, and so do many candidates: what is found is within 1 % of the best."""
    x = DISTRIBUTIONS[name](torch.randn(3, count, generator=torch.Generator().manual_seed(bits)))
    for grid in (Grid(bits), Grid(bits, symmetric=True)):
        scale, zero = lp_search(x, grid, 2.4, 40)
        for row in range(3):
            values = x[row].double().numpy()
            found = reference_error(values, float(scale[row]), float(zero[row]), grid, 2.4)
            assert found <= reference_search(values, grid, 2.4, 40) * 1.01 + 1e-12
    scale, zero = lp_search_2d(x, Grid(bits), 2.4, 5)
    values = x[0].double().numpy()
    found = reference_error(values, float(scale[0]), float(zero[0]), Grid(bits), 2.4)
    assert found <= reference_search_2d(values, Grid(bits), 2.4, 5) * 1.01 + 1e-12


@settings(max_examples=25)
@given(st.integers(2, 5), st.integers(2, 40), st.sampled_from([1.0, 2.0, 2.4]), st.integers(0, 1000))
def test_the_search_in_two_dimensions_finds_the_best_pair(bits: int, count: int, p: float, seed: int) -> None:
    x = heavy_tailed(2, count, seed)
    x[:, 0], x[:, 1] = -1.0, 1.0  # both signs
    grid = Grid(bits)
    scale, zero = lp_search_2d(x, grid, p, candidates=10)
    assert scale.dtype == torch.float32
    assert zero.dtype == torch.int32
    grid.require(scale, zero)
    for row in range(2):
        values = x[row].double().numpy()
        found = reference_error(values, float(scale[row]), float(zero[row]), grid, p)
        assert found <= reference_search_2d(values, grid, p, 10) * 1.01 + 1e-9


def test_where_the_zero_point_has_no_choice_the_search_has_one_dimension() -> None:
    x = heavy_tailed(4, 200, 2)
    x[1], x[2], x[3] = x[1].abs(), -x[2].abs(), 0
    for found, expected in zip(lp_search_2d(x, Grid(4)), lp_search(x, Grid(4)), strict=True):
        assert torch.equal(found[1:], expected[1:])
    assert lp_search_2d(x, Grid(4))[0][0] != lp_search(x, Grid(4))[0][0]
    for found, expected in zip(lp_search_2d(x, Grid(4, True)), lp_search(x, Grid(4, True)), strict=True):
        assert torch.equal(found, expected)


def test_two_dimensions_are_better_for_what_leaves_a_silu() -> None:
    """Its shortest tail ends at -0.28, so that shrinking both ends together would cut off values near 0 first."""
    x = torch.nn.functional.silu(2 * torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)))
    grid, values = Grid(4), x[0].double().numpy()
    errors = [
        reference_error(values, float(scale), float(zero), grid, 2.4)
        for scale, zero in (lp_search_2d(x, grid), lp_search(x, grid))
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1e6, 1e30])
def test_searches_do_not_depend_on_the_unit(magnitude: float) -> None:
    x = heavy_tailed(2, 1000, 4)
    for search in (lp_search, lp_search_2d):
        expected_scale, expected_zero = search(x, Grid(4))
        scale, zero = search(x * magnitude, Grid(4))
        torch.testing.assert_close(scale / magnitude, expected_scale)
        assert torch.equal(zero, expected_zero)


@settings(max_examples=25)
@given(grids, st.integers(1, 4), st.integers(1, 50), st.integers(0, 1000))
def test_minmax_covers_every_value(grid: Grid, channels: int, count: int, seed: int) -> None:
    x = heavy_tailed(channels, count, seed)
    scale, zero = minmax(x, grid)
    moved = grid.fake_quantize(x, scale[:, None], zero[:, None])
    assert bool(((moved - x).abs() <= scale[:, None] / 2 * (1 + 1e-4)).all())


@pytest.mark.parametrize("share", [0.5, 0.99, 1.0])
def test_percentiles_are_numpys(share: float) -> None:
    x = heavy_tailed(3, 501, 5)
    scale, zero = percentile(x, Grid(8), share)
    ends = np.quantile(x.double().numpy(), [(1 - share) / 2, (1 + share) / 2], axis=1)
    expected_scale, expected_zero = Grid(8).parameters(torch.from_numpy(ends[0]), torch.from_numpy(ends[1]))
    torch.testing.assert_close(scale, expected_scale)
    assert (zero - expected_zero).abs().max() <= 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_of_zeros_are_exact(symmetric: bool) -> None:
    x = torch.zeros(2, 9)
    grid = Grid(4, symmetric)
    for scale, zero in (minmax(x, grid), lp_search(x, grid), lp_search_2d(x, grid), percentile(x, grid, 0.9)):
        assert torch.equal(grid.fake_quantize(x, scale[:, None], zero[:, None]), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_without_a_range_are_refused(bad: float) -> None:
    for values, match in ((torch.tensor([[1.0, bad]]), "NaN"), (torch.empty(1, 0), "empty")):
        for rule in (minmax, lp_search, lp_search_2d, lambda x, g: percentile(x, g, 0.9)):
            with pytest.raises(UserError, match=match):
                rule(values, Grid(4))


def test_rows_view_a_tensor_by_channel_or_whole() -> None:
    x = torch.arange(24).view(2, 3, 4)
    assert rows(x, per_channel=True).shape == (2, 12)
    assert rows(x, per_channel=False).shape == (1, 24)
