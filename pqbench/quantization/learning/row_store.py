"""Rows of calibration data: in memory up to a limit, beyond it in temporary files.

The files are read and written by position, not mapped: mapped pages count as the process's memory once they are
touched, which is what the limit is to prevent, and a mapped file on a full disk kills the process where a write raises.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor

from pqbench.base.errors import NoSpaceError
from pqbench.base.files import disk_is_full

MEMORY_LIMIT = 1 << 30
"""Bytes of calibration data that are kept in memory at a time, unless another limit is given: 1 GiB."""


class StoredRows:
    """(N, ...) rows in a file that has no name: it is gone with the process, however that ends.

    Read with a tensor of indices, written and read with slices, as a tensor would be.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.device = device
        self._row = self.shape[1:].numel() * dtype.itemsize
        self._file = tempfile.TemporaryFile(prefix="pqbench-", buffering=0)  # noqa: SIM115  (lives as long as the rows)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The rows at `index`, on the device that they came from."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            rows = torch.empty(stop - start, *self.shape[1:], dtype=self.dtype)
            self._read(rows, start)
        else:
            rows = torch.empty(len(index), *self.shape[1:], dtype=self.dtype)
            for row, position in zip(rows, index.tolist(), strict=True):
                self._read(row, position)
        return rows.to(self.device)

    def __setitem__(self, index: slice, rows: Tensor) -> None:
        """Write consecutive rows. Raises `NoSpaceError` when the disk is full."""
        start, stop, _ = index.indices(len(self))
        if stop - start != len(rows):
            raise ValueError(f"{len(rows)} rows do not fill {stop - start} places.")
        left, offset = _bytes(rows.detach().cpu().contiguous()), start * self._row
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            if not disk_is_full(error):
                raise
            raise NoSpaceError(
                f"No space left in {tempfile.gettempdir()} for calibration data of {self.nbytes / 2**30:.1f} GiB: free "
                "some, set TMPDIR to a folder on a larger disk, or use fewer calibration samples."
            ) from None

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self) * self._row

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()

    def _read(self, into: Tensor, start: int) -> None:
        """Fill a contiguous tensor with the bytes that begin at row `start`."""
        left, offset = _bytes(into), start * self._row
        while left:
            count = os.preadv(self._file.fileno(), [left], offset)
            if count == 0:
                raise ValueError(f"Rows from {start} on were never written.")
            left, offset = left[count:], offset + count


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


Rows = Tensor | StoredRows
"""(N, ...) values, one row a calibration sample."""


class RowStore:
    """Hands out rows: tensors while all of them together stay under `memory_limit` bytes, files from then on."""

    def __init__(self, memory_limit: int = MEMORY_LIMIT) -> None:
        self.memory_limit = memory_limit
        self._held: list[Rows] = []

    @property
    def in_memory(self) -> int:
        """Bytes that are held in memory."""
        return sum(rows.nbytes for rows in self._held if isinstance(rows, Tensor))

    def rows(self, count: int, like: Tensor) -> Rows:
        """Room for `count` rows like those of `like`, on its device; to be filled by slices."""
        shape = (count, *like.shape[1:])
        size = torch.Size(shape).numel() * like.dtype.itemsize
        if self.in_memory + size <= self.memory_limit:
            made: Rows = torch.empty(shape, dtype=like.dtype, device=like.device)
        else:
            made = StoredRows(shape, like.dtype, like.device)
        self._held.append(made)
        return made

    def free(self, rows: Rows) -> None:
        """Forget rows that are no longer needed."""
        self._held = [held for held in self._held if held is not rows]
        if isinstance(rows, StoredRows):
            rows.close()

    def close(self) -> None:
        """Forget all rows."""
        for rows in list(self._held):
            self.free(rows)

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
