"""`pqbench plugins`: which components are installed, and which plugins could not be loaded."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pqbench.components import Failure, Registered

app = typer.Typer(
    help="See which methods and components are installed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def plugins() -> None:
    """See which methods and components are installed."""


@app.command("list")
def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with code 1 when a plugin could not be loaded.")
    ] = False,
    without: Annotated[
        list[str] | None, typer.Option("-p", metavar="no:NAME", help="Leave out the plugin or distribution NAME.")
    ] = None,
) -> None:
    """List every component with the distribution it comes from, then the plugins that could not be loaded."""
    from pqbench.components import Registry, blocked_names

    registry = Registry.discover(blocked=blocked_names(without or ()))
    components, failures = registry.components(), registry.failures()
    if as_json:
        document = {
            "components": [_row(component) for component in components],
            "failures": [dataclasses.asdict(failure) for failure in failures],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        typer.echo(_table(components))
        for line in _failure_lines(failures):
            typer.echo(line)
    if strict and failures:
        raise typer.Exit(1)


def _row(found: Registered[Any]) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "name": found.name,
        "summary": found.component.summary,
        "distribution": found.provenance.distribution,
        "version": found.provenance.version,
        "entry_point": found.provenance.entry_point,
        "source_hash": found.provenance.source_hash,
        "deviations": list(found.component.deviations),
    }


def _table(components: tuple[Registered[Any], ...]) -> str:
    from tabulate import tabulate

    rows = [
        (found.kind, found.name, found.component.summary, found.provenance.distribution, found.provenance.version)
        for found in components
    ]
    return str(tabulate(rows, headers=("kind", "name", "summary", "distribution", "version"), disable_numparse=True))


def _failure_lines(failures: tuple[Failure, ...]) -> list[str]:
    if not failures:
        return []
    return ["", f"{len(failures)} could not be loaded:", *(f"  {failure}" for failure in failures)]
