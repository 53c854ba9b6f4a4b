"""The table as GitHub-flavoured Markdown."""

from __future__ import annotations

import re

from pqbench.report.tables.table import Column, Section, Table, TableCell

_ESCAPED = re.compile(r"([\\`*_{}|~$#])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def markdown(table: Table) -> str:
    """A document: for each section its table, what stands under it, and its footnotes."""
    title = f"# {escape(table.title)}"
    return "\n\n".join([title, *(_section(section, len(table.sections) > 1) for section in table.sections)]) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(text.split())
    escaped = _ESCAPED.sub(r"\\\1", line).translate(_ENTITIES)
    # Brackets are plain text unless something link-like follows; escaping only that keeps `pqcad[a=8]` readable.
    return re.sub(r"\](?=[(\[:])", r"\]", escaped)


def _section(section: Section, has_title: bool) -> str:
    parts = [f"## {escape(section.title)}"] if has_title else []
    head = [_row([escape(column.full_heading) for column in section.columns])]
    head.append(_row([_rule(column) for column in section.columns]))
    parts.append("\n".join([*head, *(_row([_cell(cell) for cell in row]) for row in section.rows)]))
    parts += [escape(line) for line in section.caption]
    if section.footnotes:
        parts.append("\n".join(f"{i}. {escape(text)}" for i, text in enumerate(section.footnotes, start=1)))
    return "\n\n".join(parts)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(column: Column) -> str:
    return ":--" if column.align == "left" else "--:"


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    if cell.is_best:
        text = f"**{text}**"
    return text + (f" <sup>{cell.marks}</sup>" if cell.notes else "")
