"""The published symmetric range."""

from __future__ import annotations

from torch import Tensor

from pqbench.quantization import Grid, minmax


def magnitude(values: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """scale = max|x| / (2^(b-1) - 1), one for each row of `values`, (C, N); the lowest code is then never needed.

    On a grid with a fixed zero at its lower end (softmax outputs) it covers the extremes. Raises `UserError` for
    values that are not finite.
    """
    if not grid.symmetric:
        return minmax(values, grid)
    reach = values.abs().amax(1, keepdim=True)
    return minmax(reach * reach.new_tensor([-1.0, 1.0]), grid)
