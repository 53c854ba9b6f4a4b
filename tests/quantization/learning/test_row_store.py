"""Rows in memory and in files: the same values, within the limit, and gone afterwards."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pqbench.base.errors import NoSpaceError
from pqbench.quantization.learning.row_store import RowStore, StoredRows

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]


def values(count: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (100 * torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))).to(dtype)


@given(
    count=st.integers(1, 12),
    shape=st.lists(st.integers(1, 4), max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    batch=st.integers(1, 5),
    index=st.lists(st.integers(0, 11), max_size=8),
)
def test_a_file_gives_back_what_a_tensor_would(
    count: int, shape: tuple[int, ...], dtype: torch.dtype, batch: int, index: list[int]
) -> None:
    expected = values(count, shape, dtype)
    with RowStore(memory_limit=0) as store:
        rows = store.rows(count, expected)
        assert isinstance(rows, StoredRows)
        for start in range(0, count, batch):
            rows[start : min(start + batch, count)] = expected[start : start + batch]
        chosen = torch.tensor([i % count for i in index], dtype=torch.long)
        assert torch.equal(rows[chosen], expected[chosen])
        assert torch.equal(rows[1 : count + 5], expected[1:])
        assert (len(rows), rows.shape, rows.dtype) == (count, expected.shape, dtype)
        assert rows.nbytes == expected.nbytes


def test_permuted_rows_are_stored_in_order() -> None:
    expected = values(6, (3, 4), torch.float32).transpose(1, 2)
    with RowStore(memory_limit=0) as store:
        rows = store.rows(6, expected)
        rows[0:6] = expected
        assert torch.equal(rows[torch.arange(6)], expected)


def test_memory_is_used_up_to_the_limit_and_given_back() -> None:
    like = torch.zeros(1, 256)  # 1 KiB a row
    with RowStore(memory_limit=10 * 1024) as store:
        first, second, third = store.rows(6, like), store.rows(5, like), store.rows(4, like)
        assert [type(rows) for rows in (first, second, third)] == [Tensor, StoredRows, Tensor]
        assert store.in_memory == 10 * 1024
        store.free(first)
        assert store.in_memory == 4 * 1024
        assert isinstance(store.rows(6, like), Tensor)


def test_files_have_no_name_and_end_with_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with RowStore(memory_limit=0) as store:
        rows = store.rows(4, torch.zeros(1, 8))
        rows[0:4] = torch.ones(4, 8)
        assert list(tmp_path.iterdir()) == []
    assert isinstance(rows, StoredRows)
    with pytest.raises(ValueError, match="closed file"):
        rows[torch.tensor([0])]


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with RowStore(memory_limit=0) as store:
        rows = store.rows(4, torch.zeros(1, 8))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpaceError, match=r"No space left in .* set TMPDIR"):
            rows[0:4] = torch.ones(4, 8)


def test_partial_reads_and_writes_are_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call may move fewer bytes than it was given."""
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:7], at))
    monkeypatch.setattr(os, "preadv", lambda fd, into, at: read(fd, [into[0][:5]], at))
    expected = values(5, (3,), torch.float32)
    with RowStore(memory_limit=0) as store:
        rows = store.rows(5, expected)
        rows[0:5] = expected
        assert torch.equal(rows[torch.tensor([4, 0, 2])], expected[[4, 0, 2]])


def test_rows_that_were_never_written_are_not_made_up() -> None:
    with RowStore(memory_limit=0) as store:
        rows = store.rows(4, torch.zeros(1, 8))
        with pytest.raises(ValueError, match="never written"):
            rows[torch.tensor([3])]
