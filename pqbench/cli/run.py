"""`pqbench run`: run methods on a workload and write their table."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pqbench.cli.request import (
    BudgetName,
    BudgetOption,
    CacheFolder,
    Device,
    Engines,
    Methods,
    Plugins,
    Samples,
    Seeds,
    WorkloadName,
    build_registry,
    build_request,
)

EXIT_CELL_FAILED = 1


class ModeName(str, Enum):
    """What to do with what an earlier run left."""

    CACHED = "cached"
    RETRY = "retry"
    FORCE = "force"
    READ_ONLY = "read-only"


def run(
    methods: Methods,
    workload: WorkloadName = "fashion",
    budget: BudgetOption = BudgetName.QUICK,
    seeds: Seeds = "0",
    samples: Samples = None,
    engines: Engines = "torch,openvino",
    device: Device = "cpu",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results [default: results/WORKLOAD-BUDGET].")
    ] = None,
    cache: CacheFolder = None,
    mode: Annotated[
        ModeName,
        typer.Option("--mode", help="cached: go on; retry: failed cells again; force: all again; read-only: only look."),
    ] = ModeName.CACHED,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON; progress goes to stderr.")] = False,
) -> None:
    """Run methods side by side under one protocol; write records, tables and figures."""
    from rich.console import Console

    from pqbench.bench.cache import StageCache, default_cache_folder
    from pqbench.bench.plan import make_plan
    from pqbench.bench.run import Runner, default_folder, require_writable
    from pqbench.bench.store import RunFolder
    from pqbench.report.formats import Format, print_table, rendered
    from pqbench.report.write import write_report

    registry = build_registry(plugins)
    plan = make_plan(build_request(methods, workload, budget, seeds, samples, engines, device), registry)
    folder = RunFolder(output or default_folder(plan))
    require_writable(folder.path)
    console = Console(stderr=True)
    console.print(
        f"{len(plan.cells)} cells on {plan.workload.name} at budget {budget.value} ({plan.protocol.n} images), "
        f"protocol {plan.protocol.id}, into {folder.path}",
        highlight=False,
        soft_wrap=True,
    )
    stage_cache = StageCache(cache or default_cache_folder())
    records = Runner(plan, folder, stage_cache, registry, console, mode.value).run()
    for path in write_report(folder):
        console.print(f"Wrote {path}", highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(rendered(folder, Format.JSON))
    else:
        print_table(folder)
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        typer.echo(f"{record.label} seed {record.seed} failed: {record.reason}", err=True)
    if failed:
        raise typer.Exit(EXIT_CELL_FAILED)
