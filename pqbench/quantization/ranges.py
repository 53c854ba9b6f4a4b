"""Ranges: which interval of a tensor's values a grid should cover.

Every function takes values of shape (C, N), one row for each scale that is sought (a single row for a per-tensor
scale), and returns a scale (C,) float32 and a zero-point (C,) int32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.errors import UserError
from pqbench.quantization.grid import Grid

LP_NORM = 2.4
"""The exponent of the range search in PTQ4DM and Q-Diffusion."""
LP_CANDIDATES = 80

_SEARCH_VALUES = 65_536
"""A search looks at no more values a row than this: an even sample stands for the rest."""
_SLICE_VALUES = 300_000


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

    Candidates are (1 - i / candidates) of the range, i = 0 ... candidates - 1; all candidates of all rows are
    evaluated together, in slices of bounded memory.
    """
    _require_finite(values)
    low, high = values.amin(1), values.amax(1)
    sample = _thinned(values)
    shrink = 1 - torch.arange(candidates, dtype=torch.float32, device=values.device) / candidates
    scale, zero = grid.parameters(low[:, None] * shrink, high[:, None] * shrink)
    error = torch.empty_like(scale)
    # One slice holds rows x candidates x values: few enough floats that the passes over them stay in a core's cache.
    step = max(1, _SLICE_VALUES // max(1, sample.numel()))
    for i in range(0, candidates, step):
        part = slice(i, i + step)
        moved = grid.fake_quantize(sample[:, None, :], scale[:, part, None], zero[:, part, None].float())
        # |e|^p as 2^(p log2 |e|): a quarter of the time of torch's pow, and 0 stays 0.
        error[:, part] = moved.sub_(sample[:, None, :]).abs_().log2_().mul_(p).exp2_().mean(2)
    best = error.argmin(1, keepdim=True)
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
