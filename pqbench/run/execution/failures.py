"""What becomes of an error in a cell: a sentence for its record and a traceback for its log."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pqbench.base.errors import NoSpaceError, UserError
from pqbench.base.files import disk_is_full
from pqbench.base.text import shortened

_NO_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's allocators say in a `RuntimeError`."""


class CellError(Exception):
    """A cell cannot be finished.

    reason    one sentence for the record, where a long message is cut
    details   the traceback, with the whole message
    """

    def __init__(self, reason: str, details: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = details


@contextmanager
def cell_errors(work: str) -> Iterator[None]:
    """Turn whatever a component raises during `work` into a `CellError`.

    A full disk is nobody's fault and stays a `NoSpaceError`. Ctrl-C passes.
    """
    try:
        yield
    except (CellError, NoSpaceError):
        raise
    except (Exception, SystemExit) as error:
        if disk_is_full(error):
            raise NoSpaceError(
                f"No space is left on the disk during {work}: free some and give the same command again; what was "
                "finished is kept."
            ) from None
        details = "".join(traceback.format_exception(error))
        # Not chained: the frames of the failed work would keep its tensors in memory.
        failure = CellError(_reason(work, error), details)
    else:
        return
    raise failure


def _reason(work: str, error: BaseException) -> str:
    if isinstance(error, UserError):
        return f"{work}: {shortened(str(error))}"
    if _is_out_of_memory(error):
        return f"{work} ran out of memory: lower its batch or the sample count, or use a machine with more."
    text = shortened(str(error))
    return f"{work} raised {type(error).__name__}" + (f": {text}" if text else " without a message.")


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY_WORDS)
