"""Which of many candidate grids has the least L_p error on a row of values.

Most candidates can be told from the best by a coarse look. So they go through a cascade: all are scored on a coarse
histogram of the row, the better ones on a finer one, and the last few on the values themselves.

A histogram's bins are taken as filled evenly. Of the error |q(x) - x|^p the integral is known in closed form: with
k(x) the nearest step of the grid that is in its range, and d = x / scale - k(x),

    A(x) = scale^(p+1) (c k(x) + d |d|^p / (p+1)),    c = 2 (1/2)^(p+1) / (p+1)

whether x is rounded or clipped, so that a bin from a to b has the mean error (A(b) - A(a)) / (b - a).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pqbench.quantization.grids.grid import Grid

_LEVELS = ((32, 16, 0.05), (512, 4, 0.005))
"""(bins, how many candidates are left at least, and as a share of all): all are looked at on 32 bins, the better ones
on 512, the best of those on the values."""
_PASS_ELEMENTS = 250_000
"""Floats that one pass works on: few enough to stay in a core's cache."""


def least_error(values: Tensor, scale: Tensor, zero: Tensor, grid: Grid, p: float) -> Tensor:
    """For each row of `values`, (R, N), the index of the best of its K candidates, (R,) int64.

    scale, zero   (R, K), the candidates of each row, on `grid`

    Of equally good ones the first is taken. The error of what is found is within 1 % of the least: up to that, close
    candidates may be mistaken for each other in the histograms.
    """
    # In units of the widest grid's steps: powers of very large or small values do not fit single precision.
    unit = scale.amax(1, keepdim=True)
    values, scale = values / unit, scale / unit
    left = torch.arange(scale.shape[1], device=scale.device).expand(scale.shape)
    finest = max(bins for bins, *_ in _LEVELS)
    if values.shape[1] > min(bins for bins, *_ in _LEVELS):
        edges, counts = _histogram(values, finest)
        for bins, least, share in _LEVELS:
            kept = max(least, int(share * scale.shape[1]))
            if left.shape[1] > kept and values.shape[1] > bins:
                errors = _scored(*_bins(edges, counts, bins), scale.gather(1, left), zero.gather(1, left), grid, p)
                # Sorted, so that ties stay with the first.
                left = left.gather(1, errors.topk(kept, 1, largest=False).indices.sort(1).values)
    if left.shape[1] == 1:
        return left[:, 0]
    best = _scored(values, None, scale.gather(1, left), zero.gather(1, left), grid, p).argmin(1, keepdim=True)
    return left.gather(1, best).squeeze(1)


def _histogram(values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Edges (R, bins + 1) and counts (R, bins) of the bins between each row's ends, evenly spaced in +-sqrt(|x|).

    Bins that are narrow near 0 tell candidates apart even where a few outliers make the range many times as wide as
    most of the values.
    """
    roots = _root(values)
    low, high = roots.amin(1, keepdim=True), roots.amax(1, keepdim=True)  # in a tenth of aminmax's time
    width = ((high - low) / bins).clamp(min=torch.finfo(values.dtype).tiny)
    place = roots.sub_(low).div_(width).long().clamp_(0, bins - 1)
    place += torch.arange(len(values), device=values.device)[:, None] * bins
    counts = torch.bincount(place.view(-1), minlength=len(values) * bins)
    ends = low + width * torch.arange(bins + 1, device=values.device)
    return ends * ends.abs(), counts.view(len(values), bins).to(values.dtype)


def _root(x: Tensor) -> Tensor:
    return x.abs().sqrt_().copysign_(x)


def _bins(edges: Tensor, counts: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Edges (R, bins + 1) of a coarser histogram, and weights that turn A at the edges into the mean error."""
    merged = counts.shape[1] // bins
    edges = edges[:, ::merged]
    widths = edges.diff(dim=1).clamp(min=torch.finfo(edges.dtype).tiny)
    density = counts.view(len(counts), bins, merged).sum(2) / counts.sum(1, keepdim=True) / widths
    # sum_j density_j (A_{j+1} - A_j), gathered by A.
    return edges, pad(density, (1, 0)) - pad(density, (0, 1))


def _scored(points: Tensor, weights: Tensor | None, scale: Tensor, zero: Tensor, grid: Grid, p: float) -> Tensor:
    """Mean L_p error (R, K) on points (R, N): values, or with `weights` the edges of bins."""
    errors = torch.empty_like(scale)
    rows = max(1, _PASS_ELEMENTS // points.shape[1])
    for r in range(0, len(points), rows):
        part = slice(r, r + rows)
        step = max(1, _PASS_ELEMENTS // points[part].numel())
        x = points[part, None, :]
        for k in range(0, scale.shape[1], step):
            s, z = scale[part, k : k + step, None], zero[part, k : k + step, None]
            nearest, distance = _residual(x, s, z, grid)
            if weights is None:
                mean, unit = _powers(distance, p).mean(2), s.squeeze(2) ** p
            else:
                mean = (_integral(nearest, distance, p) @ weights[part, :, None]).squeeze(2)
                unit = s.squeeze(2) ** (p + 1) / (p + 1)
            errors[part, k : k + step] = mean * unit
    return errors


def _residual(x: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The nearest step of the grid that is in its range, and how far x lies from it, both in steps."""
    steps = x / scale
    # Two comparisons take a third of the time of one clamp between tensors.
    lowest, highest = (grid.low - zero).to(x.dtype), (grid.high - zero).to(x.dtype)
    nearest = torch.minimum(torch.maximum(steps.round(), lowest), highest)
    return nearest, steps.sub_(nearest)


def _powers(distance: Tensor, p: float) -> Tensor:
    """|distance|^p, in place."""
    distance = distance.abs_()
    # 2^(p log2 d) takes a half of the time of torch's pow, and 0 stays 0.
    return distance.square_() if p == 2 else distance.log2_().mul_(p).exp2_()


def _integral(nearest: Tensor, distance: Tensor, p: float) -> Tensor:
    """A(x) of the module's docstring, without its factor scale^(p+1) / (p+1), from `_residual`."""
    power = _powers(distance.clone(), p)
    return nearest.mul_(2 * 0.5 ** (p + 1)).addcmul_(distance, power)
