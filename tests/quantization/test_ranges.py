"""Ranges against numpy and against a plain loop over the candidates in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pqbench.errors import UserError
from pqbench.quantization.grid import Grid
from pqbench.quantization.ranges import lp_search, minmax, percentile, rows

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
    for scale, zero in (minmax(x, grid), lp_search(x, grid), percentile(x, grid, 0.9)):
        assert torch.equal(grid.fake_quantize(x, scale[:, None], zero[:, None]), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_without_a_range_are_refused(bad: float) -> None:
    for values, match in ((torch.tensor([[1.0, bad]]), "NaN"), (torch.empty(1, 0), "empty")):
        for rule in (minmax, lp_search, lambda x, g: percentile(x, g, 0.9)):
            with pytest.raises(UserError, match=match):
                rule(values, Grid(4))


def test_rows_view_a_tensor_by_channel_or_whole() -> None:
    x = torch.arange(24).view(2, 3, 4)
    assert rows(x, per_channel=True).shape == (2, 12)
    assert rows(x, per_channel=False).shape == (1, 24)
