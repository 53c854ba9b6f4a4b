"""The one table that every renderer (terminal, Markdown, LaTeX, HTML, JSON) shows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from pqbench.results.records import Direction

DASH = "–"
"""Shown where nothing was measured."""

ARROWS: dict[Direction, str] = {"lower": "↓", "higher": "↑", "none": ""}


@dataclass(frozen=True)
class Column:
    """One column.

    key        stable name for programs: `fd`, `latency_ms_per_image@openvino/1`
    title      for people
    group      what neighbouring columns have in common, shown above their titles; empty for none
    is_name    it says which row this is; renderers that break a wide table repeat it
    """

    key: str
    title: str
    unit: str = ""
    group: str = ""
    align: Literal["left", "right"] = "right"
    direction: Direction = "none"
    is_name: bool = False

    @property
    def heading(self) -> str:
        """Title with its unit and with the arrow that says which way is better: `Size (MB) ↓`."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit} {ARROWS[self.direction]}".rstrip()

    @property
    def full_heading(self) -> str:
        """The heading with its group, for renderers that have a single line of headings."""
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class TableCell:
    """One value: as people read it, and at full precision in the column's unit.

    low, high   its 95 % interval, where there is one
    is_best     the best of its column, as far as the intervals support that
    notes       numbers of the section's footnotes, from 1
    """

    text: str = DASH
    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    is_best: bool = False
    notes: tuple[int, ...] = ()

    @property
    def marks(self) -> str:
        """Its footnotes as readers see them, runs shortened: (1, 2, 3, 5) -> "1-3,5"."""
        runs = [
            [number for _, number in run]
            for _, run in groupby(enumerate(self.notes), key=lambda each: each[1] - each[0])
        ]
        return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


@dataclass(frozen=True)
class Section:
    """Rows that may be compared with one another: one workload, one budget, one protocol of quality.

    caption     what stands under the table: protocol, sample count, seeds, how to read it
    footnotes   what single rows need to be said about them
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    caption: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """All results of a run: a section for each protocol."""

    title: str
    sections: tuple[Section, ...]
