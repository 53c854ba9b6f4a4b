"""The formats in which a run can be reported."""

from __future__ import annotations

import io
from collections.abc import Sequence
from enum import StrEnum

from pqbench.base.errors import UserError
from pqbench.report.tables.columns import with_columns
from pqbench.report.tables.results import results_table
from pqbench.report.tables.table import Table
from pqbench.results.comparisons import Comparison
from pqbench.results.records import Manifest, Record
from pqbench.results.store import RunFolder


class Format(StrEnum):
    """What `pqbench report --format` takes."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


def rendered(
    run: RunFolder,
    form: Format,
    width: int = 120,
    columns: Sequence[str] = (),
    records: Sequence[Record] | None = None,
) -> str:
    """The run's report as text. `width` is the terminal's, for the format `terminal` (without colours here).

    `csv` has one row for each cell; all others show the table, where seeds are averaged, with the `columns` that are
    asked for (none: all). `records` are those to show instead of all that the run lists. Raises `UserError` for unknown
    columns, and for columns of the format `csv`.
    """
    manifest, shown = _contents(run, records)
    if form is Format.CSV:
        from pqbench.report.tables.flat import cells_csv

        if columns:
            raise UserError("--format csv is for programs and always has every column: leave --columns out.")
        return cells_csv(shown)
    comparisons = run.comparisons()
    table = _table(manifest, shown, comparisons, columns)
    if form is Format.MARKDOWN:
        from pqbench.report.renderers.markdown import markdown

        return markdown(table)
    if form is Format.LATEX:
        from pqbench.report.renderers.latex import latex

        return latex(table)
    if form is Format.JSON:
        from pqbench.report.renderers.json_document import json_document

        return json_document(table, shown, manifest, comparisons)
    if form is Format.HTML:
        from pqbench.report.renderers.html_page import html_page
        from pqbench.report.write import figures_of, shown_figures

        return html_page(table, shown_figures(figures_of(run)))
    return _plain(table, width)


def print_table(run: RunFolder, columns: Sequence[str] = (), records: Sequence[Record] | None = None) -> None:
    """Print the table to the terminal, in colour where it can, as wide as the window; arguments as in `rendered`."""
    from rich.console import Console

    from pqbench.report.renderers.terminal import TerminalTable

    Console().print(TerminalTable(_table(*_contents(run, records), run.comparisons(), columns)))


def _contents(run: RunFolder, records: Sequence[Record] | None) -> tuple[Manifest, Sequence[Record]]:
    """The manifest and the records to show; of given ones, the budget is their own, not that of the last run."""
    manifest = run.manifest()
    if not records:
        return manifest, run.current_records()
    return manifest.model_copy(update={"budget": records[0].budget}), records


def _table(
    manifest: Manifest, records: Sequence[Record], comparisons: Sequence[Comparison], columns: Sequence[str]
) -> Table:
    table = results_table(records, manifest, comparisons)
    return with_columns(table, columns) if columns else table


def _plain(table: Table, width: int) -> str:
    from rich.console import Console

    from pqbench.report.renderers.terminal import TerminalTable

    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None)
    console.print(TerminalTable(table))
    return text.getvalue()
