"""The table in a terminal, broken into blocks of columns where it is wider than the window."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from pqbench.report.tables.table import Section, Table, TableCell
from pqbench.report.tables.widths import GAP, column_blocks, heading_lines

SUPERSCRIPTS = str.maketrans("0123456789,-", "⁰¹²³⁴⁵⁶⁷⁸⁹·⁻")
LONGEST_NOTE = 400
"""Characters of a footnote; the other formats have the whole of it."""
SEPARATOR = 1
"""What rich itself puts between two columns."""


class TerminalTable:
    """Something that `rich` can print: `Console().print(TerminalTable(table))`."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for section in self.table.sections:
            title = section.title if len(self.table.sections) > 1 else self.table.title
            yield Text(title, style="bold")
            for block in column_blocks(section, options.max_width):
                yield _block(section, block)
                yield Text()
            for line in section.caption:
                yield Text(line, style="dim")
            for number, text in enumerate(section.footnotes, start=1):
                yield Text(f"{_superscript(str(number))} {_shortened(text)}")
            yield Text()


def _block(section: Section, block: Sequence[int]) -> RichTable:
    rendered = RichTable(box=box.SIMPLE_HEAD, padding=(0, GAP - SEPARATOR, 0, 0), pad_edge=False, show_edge=False)
    for column in (section.columns[i] for i in block):
        rendered.add_column(
            Text("\n".join(heading_lines(column)), justify=column.align), justify=column.align, no_wrap=True
        )
    for row in section.rows:
        rendered.add_row(*(_text(row[i]) for i in block))
    return rendered


def _text(cell: TableCell) -> Text:
    style = "bold green" if cell.is_best else "red" if cell.text in ("failed", "skipped") else ""
    return Text(" ".join(cell.text.split()), style=style).append(_superscript(cell.marks), style="dim")


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_NOTE:
        return text
    return textwrap.shorten(text, LONGEST_NOTE, placeholder=" and more (all of it: --format markdown)")


def _superscript(marks: str) -> str:
    return marks.translate(SUPERSCRIPTS)
