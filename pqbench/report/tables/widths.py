"""Breaking a table that is wider than its place into blocks of columns that fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from pqbench.report.tables.table import ARROWS, Column, Section, TableCell

GAP = 2
"""Characters between two columns."""


def column_blocks(section: Section, width: int) -> Iterator[tuple[int, ...]]:
    """Column numbers of each block, at most `width` characters wide where possible.

    Every block starts with the columns that name the row; columns of one group stay together if a block can hold them.
    """
    names = [i for i, column in enumerate(section.columns) if column.is_name]
    block = list(names)
    for members in _together(section, names, width):
        if len(block) > len(names) and _width(section, [*block, *members]) > width:
            yield tuple(block)
            block = list(names)
        block += members
    yield tuple(block)


def _together(section: Section, names: Sequence[int], width: int) -> Iterator[Sequence[int]]:
    """Columns that are not to be parted: those of one group where a block can hold them, else single ones."""
    numbered = [(i, column) for i, column in enumerate(section.columns) if not column.is_name]
    for _, run in groupby(numbered, key=lambda each: each[1].group or each[0]):
        members = [i for i, _ in run]
        yield from [members] if _width(section, [*names, *members]) <= width else [[i] for i in members]


def heading_lines(column: Column) -> tuple[str, ...]:
    """Group, title and unit, each on lines of its own: ("openvino", "batch 1", "latency ↓", "ms/image")."""
    group = column.group.split(", ") if column.group else []
    return (*group, f"{column.title} {ARROWS[column.direction]}".rstrip(), column.unit)


def shown_length(cell: TableCell) -> int:
    """Characters of a cell with the marks of its footnotes."""
    return len(cell.text) + len(cell.marks)


def _width(section: Section, block: Sequence[int]) -> int:
    return sum(_column_width(section, i) for i in block) + GAP * (len(block) - 1)


def _column_width(section: Section, position: int) -> int:
    headings = map(len, heading_lines(section.columns[position]))
    return max(*headings, *(shown_length(row[position]) for row in section.rows))
