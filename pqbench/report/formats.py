"""The formats in which a run can be reported."""

from __future__ import annotations

import io
from enum import StrEnum

from pqbench.bench.store import RunFolder
from pqbench.report.results import results_table


class Format(StrEnum):
    """What `pqbench report --format` takes."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


def rendered(run: RunFolder, form: Format, width: int = 120) -> str:
    """The run's report as text. `width` is the terminal's, for the format `terminal` (without colours here).

    `csv` has one row for each cell; all others show the table, where seeds are averaged.
    """
    manifest, records = run.manifest(), run.current_records()
    if form is Format.CSV:
        from pqbench.report.cells import cells_csv

        return cells_csv(records)
    table = results_table(records, manifest)
    if form is Format.MARKDOWN:
        from pqbench.report.markdown import markdown

        return markdown(table)
    if form is Format.LATEX:
        from pqbench.report.latex import latex

        return latex(table)
    if form is Format.JSON:
        from pqbench.report.json_document import json_document

        return json_document(table, records, manifest)
    if form is Format.HTML:
        from pqbench.report.html_page import html_page
        from pqbench.report.write import figures_of, shown_figures

        return html_page(table, shown_figures(figures_of(run)))
    return _plain(run, width)


def print_table(run: RunFolder) -> None:
    """Print the table to the terminal, in colour where it can, as wide as the window."""
    from rich.console import Console

    from pqbench.report.terminal import TerminalTable

    Console().print(TerminalTable(results_table(run.current_records(), run.manifest())))


def _plain(run: RunFolder, width: int) -> str:
    from rich.console import Console

    from pqbench.report.terminal import TerminalTable

    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None)
    console.print(TerminalTable(results_table(run.current_records(), run.manifest())))
    return text.getvalue()
