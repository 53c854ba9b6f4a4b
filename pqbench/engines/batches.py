"""Batches of any size on an executable that was compiled for one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pqbench.contracts import Executable


def filling(executable: Executable, batch: int) -> Callable[..., Tensor]:
    """`executable`, compiled for `batch` samples, as a function of at most as many, whose rows are repeated."""

    def predict(x_t: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        rows = torch.arange(batch, device=x_t.device) % len(x_t)
        return executable(*(each[rows] for each in (x_t, t, *condition)))[: len(x_t)]

    return predict
