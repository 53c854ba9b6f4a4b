"""Batches of a training, in an order that can be kept and gone on with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class ShuffledBatches(Iterator[Tensor]):
    """Endless batches of indices; every index once before any comes again.

    left        (K,) int64, indices that come before the next shuffle
    generator   makes the shuffles
    """

    def __init__(self, count: int, batch: int, generator: torch.Generator) -> None:
        self.count = count
        self.batch = batch
        self.generator = generator
        self.left = torch.empty(0, dtype=torch.long)

    def __next__(self) -> Tensor:
        while len(self.left) < min(self.batch, self.count):
            self.left = torch.cat([self.left, torch.randperm(self.count, generator=self.generator)])
        found, self.left = self.left[: self.batch], self.left[self.batch :]
        return found
