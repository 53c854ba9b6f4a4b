"""Rows of a tensor that arrive in parts."""

from __future__ import annotations

import torch
from torch import Tensor


class Gathered:
    """Puts parts (n, ...) one behind the other.

    count   rows in all, where that is known beforehand: each part is then written to its place, so that no more than
            the whole is ever held. Otherwise the parts and the whole are held at once for a moment
    """

    def __init__(self, count: int | None = None) -> None:
        self._count = count
        self._parts: list[Tensor] = []
        self._whole: Tensor | None = None
        self._done = 0

    def add(self, part: Tensor) -> None:
        """Take in the next rows. Raises ValueError for more than there should be."""
        if self._count is None:
            self._parts.append(part)
        else:
            if self._whole is None:
                self._whole = part.new_empty(self._count, *part.shape[1:])
            if self._done + len(part) > self._count:
                raise ValueError(f"There are more rows than the {self._count} that were announced.")
            self._whole[self._done : self._done + len(part)] = part
        self._done += len(part)

    def __len__(self) -> int:
        return self._done

    def whole(self) -> Tensor:
        """All rows, (N, ...). Raises ValueError when there are none, or fewer than there should be."""
        if self._done == 0 or self._done != (self._count or self._done):
            raise ValueError(f"There are {self._done} rows, and {self._count or 'some'} were announced.")
        return torch.cat(self._parts) if self._whole is None else self._whole
