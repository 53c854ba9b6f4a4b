"""Ranges: which interval of a tensor's values a grid should cover.

Every function takes values of shape (C, N), one row for each scale that is sought (a single row for a per-tensor
scale), and returns a scale (C,) float32 and a zero-point (C,) int32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.ranges.search import least_error

LP_NORM = 2.4
"""The exponent of the range search in PTQ4DM and Q-Diffusion."""
LP_CANDIDATES = 80

_SEARCH_VALUES = 65_536
"""A search looks at no more values a row than this: an even sample stands for the rest."""
_CANDIDATES_AT_ONCE = 1 << 20


def rows(x: Tensor, per_channel: bool) -> Tensor:
    """View a tensor as (C, N): its first axis against the rest, or one row of everything."""
    return x.reshape(x.shape[0] if per_channel else 1, -1)


def minmax(values: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Cover the smallest and the largest value."""
    _require_finite(values)
    return grid.parameters(values.amin(1), values.amax(1))


def percentile(values: Tensor, grid: Grid, share: float) -> tuple[Tensor, Tensor]:
    """Cover the middle `share` (0 to 1) of the values, equal tails left out on both sides."""
    _require_finite(values)
    tail = (1 - share) / 2
    ends = torch.quantile(_thinned(values).double(), torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=1)
    return grid.parameters(ends[0].float(), ends[1].float())


def lp_search(values: Tensor, grid: Grid, p: float = LP_NORM, candidates: int = LP_CANDIDATES) -> tuple[Tensor, Tensor]:
    """Shrink both ends of the min-max range together and keep the range with the least L_p error.

    Candidates are (1 - i / candidates) of the range, i = 0 ... candidates - 1. The error of the one that is kept is
    within 1 % of the least (see `range_search`).
    """
    _require_finite(values)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    shrink = 1 - torch.arange(candidates, dtype=torch.float32, device=values.device) / candidates
    return _best(values, *grid.parameters(low * shrink, high * shrink), grid, p)


def lp_search_2d(
    values: Tensor, grid: Grid, p: float = LP_NORM, candidates: int = LP_CANDIDATES
) -> tuple[Tensor, Tensor]:
    """Search the width of the range and where it lies: the scale and zero-point with the least L_p error.

    Candidates are all pairs of a width, i / candidates of the min-max range (i = 1 ... candidates), and a zero-point,
    every code of the grid: what PTQ4DM's code tries when the grid is asymmetric and the values have both signs. In
    other rows, and on a symmetric grid, the zero-point has no choice, and this is `lp_search`. The error of what is
    kept is within 1 % of the least.
    """
    _require_finite(values)
    if grid.symmetric:
        return lp_search(values, grid, p, candidates)
    low, high = values.amin(1), values.amax(1)
    both = (low < 0) & (high > 0)
    scale, zero = torch.empty_like(low), torch.empty_like(low, dtype=torch.int32)
    for part, search in ((both, _search_2d), (~both, lp_search)):
        if part.any():
            scale[part], zero[part] = search(values[part], grid, p, candidates)
    return scale, zero


def _search_2d(values: Tensor, grid: Grid, p: float, candidates: int) -> tuple[Tensor, Tensor]:
    """Of rows with both signs, a few at a time: at 8 bits a row has 256 candidates for each width."""
    share = torch.arange(candidates, 0, -1, dtype=torch.float32, device=values.device) / candidates
    codes = torch.arange(grid.low, grid.high + 1, dtype=torch.int32, device=values.device)
    found = []
    for part in torch.split(values, max(1, _CANDIDATES_AT_ONCE // (candidates * len(codes)))):
        full = (part.amax(1, keepdim=True) - part.amin(1, keepdim=True)) / (grid.high - grid.low)
        scale = (full * share).repeat_interleave(len(codes), 1).clamp(min=torch.finfo(torch.float32).tiny)
        zero = codes.repeat(candidates).expand(scale.shape)
        found.append(_best(part, scale, zero, grid, p))
    return torch.cat([scale for scale, _ in found]), torch.cat([zero for _, zero in found])


def _best(values: Tensor, scale: Tensor, zero: Tensor, grid: Grid, p: float) -> tuple[Tensor, Tensor]:
    best = least_error(_thinned(values), scale, zero, grid, p)[:, None]
    return scale.gather(1, best).squeeze(1), zero.gather(1, best).squeeze(1)


def _thinned(values: Tensor) -> Tensor:
    count = values.shape[1]
    if count <= _SEARCH_VALUES:
        return values
    # In whole numbers, as single precision cannot count beyond 2^24, and from end to end: a stride that divides the
    # rows of an image would look at the same few pixels of each.
    return values[:, torch.arange(_SEARCH_VALUES, device=values.device) * (count - 1) // (_SEARCH_VALUES - 1)]


def _require_finite(values: Tensor) -> None:
    if values.numel() == 0:
        raise UserError("A range cannot be taken of no values: the calibration set is empty.")
    if not torch.isfinite(values).all():
        raise UserError("A range cannot be taken of NaN or infinite values: check the calibration set.")
