"""Progress of a run: live bars in a terminal, one line a finished stage elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pqbench.contracts.context import ProgressCallback, silent


class RunProgress:
    """Shows what is being worked on. Use it as a context manager around a run."""

    def __init__(self, console: Console, stages: int) -> None:
        self.console = console
        self.stages = stages
        self.finished = 0
        self._bars: Progress | None = None
        self._overall: TaskID | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.console,
                transient=True,
            )
            self._bars.start()
            self._overall = self._bars.add_task("all stages", total=self.stages)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextmanager
    def stage(self, title: str, name: str) -> Iterator[ProgressCallback]:
        """Around one stage: yields the callback that it reports to."""
        started = time.monotonic()
        yield from self._bar(f"{title}: {name}") if self._bars else iter([silent])
        self.finished += 1
        if self._bars is not None and self._overall is not None:
            self._bars.update(self._overall, completed=self.finished)
        self.line(f"[{self.finished}/{self.stages}] {title}: {name}  {time.monotonic() - started:.1f} s")

    def skip(self, count: int, text: str) -> None:
        """Count stages that need not run, and say why."""
        self.finished += count
        if self._bars is not None and self._overall is not None:
            self._bars.update(self._overall, completed=self.finished)
        self.line(f"[{self.finished}/{self.stages}] {text}")

    def line(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _bar(self, description: str) -> Iterator[ProgressCallback]:
        assert self._bars is not None
        bars, task = self._bars, self._bars.add_task(description, total=None)

        def update(done: int, total: int, message: str) -> None:
            bars.update(task, completed=done, total=total, description=f"{description} ({message})")

        try:
            yield update
        finally:
            bars.remove_task(task)
