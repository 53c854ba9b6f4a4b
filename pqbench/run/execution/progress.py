"""Progress of a run: live bars in a terminal, one line a finished stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from pqbench.contracts.context import ProgressCallback, silent

_BAR_WIDTH = 24
_NARROW = 70
"""Columns of a terminal below which the bars give way to the words."""


class RunProgress:
    """Shows what is being worked on. Use it as a context manager around a run.

    keys   of all stages of the run; one that several cells share counts once
    """

    def __init__(self, console: Console, keys: Iterable[str]) -> None:
        self.console = console
        self._open = set(keys)
        self._total = len(self._open)
        self._bars: Progress | None = None
        self._overall: TaskID | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars = _bars(self.console)
            self._bars.start()
            self._overall = self._bars.add_task("all stages", total=self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def stage(self, title: str, still: bool = False) -> Iterator[ProgressCallback]:
        """Around the work of one stage: yields the callback that it reports to.

        still   the bars rest, so that drawing them takes nothing from what is timed meanwhile
        """
        if self._bars is None:
            yield silent
            return
        if still:
            self._bars.stop()
            self.line(f"{title} ...")
            try:
                yield silent
            finally:
                self._bars.start()
            return
        bars, task = self._bars, self._bars.add_task(title, total=None)

        def update(done: int, total: int, message: str) -> None:
            bars.update(task, completed=done, total=total, description=f"{title}: {message}" if message else title)

        try:
            yield update
        finally:
            bars.remove_task(task)

    def finish(self, keys: Iterable[str], text: str) -> None:
        """Count stages as done, and say what became of them; nothing is said of stages that were counted before."""
        new = self._open & set(keys)
        if not new:
            return
        self._open -= new
        done = self._total - len(self._open)
        if self._bars is not None and self._overall is not None:
            self._bars.update(self._overall, completed=done)
        self.line(f"[{done}/{self._total}] {text}")

    def line(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def seconds_since(start: float) -> str:
    """`12.3 s` since a `time.monotonic()`."""
    return f"{time.monotonic() - start:.1f} s"


def _bars(console: Console) -> Progress:
    # A long label is cut, so that its bar stays on one line.
    words = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    bar = [BarColumn(bar_width=_BAR_WIDTH)] if console.width >= _NARROW else []
    return Progress(
        words,
        *bar,
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        expand=True,
    )
