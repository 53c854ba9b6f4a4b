"""`pqbench report`: show a run's results again, from its records alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pqbench.cli.shared.request import given_path
from pqbench.report.renderers.formats import Format


def report(
    run: Annotated[
        Path, typer.Argument(parser=given_path, help="Folder of a run, such as results/NAME.", show_default=False)
    ],
    form: Annotated[
        Format, typer.Option("--format", "-f", help="csv has one row a cell; the others show the table.")
    ] = Format.TERMINAL,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=given_path, help="Write to this file instead of standard output."),
    ] = None,
    columns: Annotated[
        str,
        typer.Option("--columns", "-c", help="Only these columns, separated by commas: fd,*@openvino/1,stored_bytes."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Also write all tables and figures into the folder.")] = False,
) -> None:
    """Show the results of a run. Nothing is computed again."""
    from pqbench.report.renderers.formats import print_table, rendered
    from pqbench.results.store import RunFolder

    folder = RunFolder.existing(run)
    for note in folder.contents().notes:
        typer.echo(f"Note: {note}", err=True)
    if write:
        _write_files(folder.path)
    chosen = Format.JSON if as_json else form
    wanted = [name.strip() for name in columns.split(",") if name.strip()]
    if output is not None:
        _write_output(output, rendered(folder, chosen, columns=wanted))
    elif chosen is Format.TERMINAL:
        print_table(folder, wanted)
    else:
        sys.stdout.write(rendered(folder, chosen, columns=wanted))


def _write_files(folder: Path) -> None:
    from pqbench.report.write import write_report
    from pqbench.results.store import RunFolder

    for path in write_report(RunFolder(folder)):
        typer.echo(f"Wrote {path}", err=True)


def _write_output(path: Path, text: str) -> None:
    from pqbench.base.files import write_atomically

    write_atomically(path, text, advice="give another file to --output.")
