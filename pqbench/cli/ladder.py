"""`pqbench ladder`: what must hold of a quantizer before its numbers mean anything."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pqbench.cli.shared.request import (
    BudgetName,
    BudgetOption,
    CacheFolder,
    Plugins,
    WorkloadName,
    build_registry,
    build_request,
)

if TYPE_CHECKING:
    from pqbench.sanity import Rung

EXIT_FAILED = 1


def ladder(
    method: Annotated[
        str,
        typer.Argument(metavar="METHOD", help="A method with a quantizer: rtn, pqcad[w=4,a=8].", show_default=False),
    ],
    workload: WorkloadName = "fashion",
    budget: BudgetOption = BudgetName.QUICK,
    bits: Annotated[str, typer.Option("--bits", help="Widths of which the wider must not be worse.")] = "2,3,4,6,8",
    images: Annotated[int, typer.Option("--images", "-n", min=2, help="Full-precision runs that are followed.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Seed of their noise and of the method.")] = 0,
    engines: Annotated[
        str, typer.Option("--engines", help="Engines that must agree with the simulation; none: no engine.")
    ] = "openvino",
    cache: CacheFolder = None,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Climb the sanity ladder of a method's quantizer, and of its finished model's file and engines.

    W32A32 is full precision; W8A8 is near it; more bits are not worse; the packed file and the engines are the
    simulation. Exit code 1 when a rung does not hold; the row says what to look at.
    """
    from rich.console import Console

    from pqbench.commands.ladder import Ladder
    from pqbench.run.cache import StageCache, default_cache_folder
    from pqbench.run.execution.progress import RunProgress

    request = build_request(method, workload, budget, str(seed), None, engines, "cpu")
    widths, registry = _widths(bits), build_registry(plugins)
    stage_cache = StageCache(cache or default_cache_folder())
    stage_cache.require_writable()
    rungs: list[Rung] = []
    # What a plugin prints must not end up in the table.
    with contextlib.redirect_stdout(sys.stderr), RunProgress(Console(stderr=True), ()) as progress:
        for rung in Ladder(request, registry, stage_cache, progress).rungs(widths, images):
            progress.line(f"{rung.name}: {'holds' if rung.passed else 'DOES NOT HOLD'}")
            rungs.append(rung)
    typer.echo(json.dumps([asdict(rung) for rung in rungs], indent=2) if as_json else _table(rungs))
    if not all(rung.passed for rung in rungs):
        raise typer.Exit(EXIT_FAILED)


def _widths(text: str) -> list[int]:
    from pqbench.base.errors import UserError
    from pqbench.contracts.precision import QUANTIZED_BITS

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) in QUANTIZED_BITS for part in parts) or len(set(parts)) < 2:
        raise UserError(f"--bits {text!r} is not a list of widths: give two or more of 2 to 8, like 2,4,8.")
    return [int(part) for part in parts]


def _table(rungs: list[Rung]) -> str:
    from tabulate import tabulate

    rows = [
        (rung.name, "holds" if rung.passed else "FAILED", rung.checked, rung.measured, rung.limit) for rung in rungs
    ]
    table = str(tabulate(rows, ("rung", "", "what must hold", "measured", "limit"), maxcolwidths=[18, 7, 30, 40, 30]))
    failed = [f"\n{rung.name} does not hold. Look at {rung.look_at}." for rung in rungs if not rung.passed]
    return "\n".join([table, *failed])
