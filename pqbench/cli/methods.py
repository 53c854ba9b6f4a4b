"""`pqbench methods`: which methods there are, and the variants that show what their parts are worth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pqbench.cli.shared.request import BudgetName, BudgetOption, Plugins, build_registry, say_left_out

if TYPE_CHECKING:
    from pqbench.components import Registered
    from pqbench.methods.ablation import AblationRow

app = typer.Typer(
    help="See the methods, what they are made of and their ablations.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def methods() -> None:
    """See the methods, what they are made of and their ablations."""


@app.command("list")
def list_methods(
    plugins: Plugins = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """List the methods with their precision and their components."""
    registry = build_registry(plugins)
    rows = [_row(found) for found in registry.components() if found.kind == "method"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    columns = ("name", "precision", "calibration", "quantizer", "distiller", "correction", "distribution", "summary")
    _print_table([[row[column] or "-" for column in columns] for row in rows], columns)


@app.command("ablation")
def ablation(
    name: Annotated[str, typer.Argument(metavar="METHOD", help="The method that is taken apart.", show_default=False)],
    budget: BudgetOption = BudgetName.QUICK,
    explain: Annotated[bool, typer.Option("--explain", help="Print what each row changes instead.")] = False,
    plugins: Plugins = None,
) -> None:
    """Print the variants that a method declares, in one line for --methods.

    Variants that are the same at the budget are there once. `pqbench run --ablation METHOD` does the same in one step.
    """
    from pqbench.methods.ablation import ablation_rows

    rows = ablation_rows(name, build_registry(plugins), budget.value)
    if explain:
        _print_table([[row.description, row.spec, _explained(row)] for row in rows], ("row", "method", "what changes"))
        return
    say_left_out(name, rows)
    typer.echo(",".join(row.spec for row in rows if row.runs))


def _explained(row: AblationRow) -> str:
    if row.problem:
        return f"left out: {row.problem}"
    changes = "; ".join(row.changes) or "nothing"
    return f"{changes} (at this budget the same as: {row.same_as})" if row.same_as else changes


def _row(found: Registered[Any]) -> dict[str, Any]:
    method = found.component
    return {
        "name": found.name,
        "summary": method.summary,
        "precision": str(method.precision),
        "calibration": method.calibration,
        "quantizer": method.quantizer,
        "distiller": method.distiller,
        "correction": method.correction,
        "settings": {key: str(value) for key, value in method.settings.items()},
        "ablation": dict(method.ablation),
        "distribution": f"{found.provenance.distribution} {found.provenance.version}".strip(),
    }


def _print_table(rows: list[list[str]], headers: tuple[str, ...]) -> None:
    from tabulate import tabulate

    typer.echo(str(tabulate(rows, headers=headers, disable_numparse=True)))
