"""`pqbench run`: run methods on a workload and write their table."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pqbench.cli.shared.request import (
    Ablation,
    BudgetName,
    BudgetOption,
    CacheFolder,
    Device,
    Engines,
    HalfFeatures,
    Judge,
    Methods,
    Metrics,
    Plugins,
    ProtocolName,
    ReferencePath,
    Samples,
    Seeds,
    WeightsPath,
    WorkloadName,
    build_registry,
    build_request,
    build_scoring,
    given_path,
    warn_before_work,
    with_ablation,
)

if TYPE_CHECKING:
    from rich.console import Console

    from pqbench.results.records import Record
    from pqbench.results.store import RunFolder
    from pqbench.run.plan import Plan

EXIT_CELL_MISSING = 1


class ModeName(StrEnum):
    """What to do with what an earlier run left."""

    CACHED = "cached"
    RETRY = "retry"
    FORCE = "force"
    READ_ONLY = "read-only"


def run(
    methods: Methods = "",
    ablation: Ablation = None,
    workload: WorkloadName = "fashion",
    budget: BudgetOption = BudgetName.QUICK,
    seeds: Seeds = "0",
    samples: Samples = None,
    metrics: Metrics = "fd,kid,psnr_to_fp",
    protocol: ProtocolName = None,
    reference: ReferencePath = None,
    weights: WeightsPath = None,
    half_features: HalfFeatures = False,
    engines: Engines = "auto",
    device: Device = "cpu",
    exclusive: Annotated[
        float,
        typer.Option(
            "--exclusive", min=0, help="Seconds to wait for a quiet machine at each timing; noisy after that."
        ),
    ] = 0.0,
    judge: Judge = "simulation",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", parser=given_path, help="Folder of the results [default: results/WORKLOAD-BUDGET]."
        ),
    ] = None,
    cache: CacheFolder = None,
    mode: Annotated[
        ModeName,
        typer.Option("--mode", help="cached: go on; retry: failed cells too; force: all again; read-only: only look."),
    ] = ModeName.CACHED,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON; progress goes to stderr.")] = False,
) -> None:
    """Run methods side by side under one protocol; write records, tables and figures."""
    from rich.console import Console

    from pqbench.results.store import RunFolder
    from pqbench.run.cache import StageCache, default_cache_folder
    from pqbench.run.plan import make_plan
    from pqbench.run.runner import Runner, default_folder, require_writable

    registry = build_registry(plugins)
    methods = with_ablation(methods, ablation, budget, registry)
    scoring = build_scoring(metrics, protocol, reference, weights, half_features)
    request = build_request(methods, workload, budget, seeds, samples, engines, device, scoring, judge)
    plan = make_plan(replace(request, exclusive=exclusive), registry)
    writes, path = mode is not ModeName.READ_ONLY, output or default_folder(plan)
    folder = RunFolder(path) if writes else RunFolder.existing(path)
    stage_cache = StageCache(cache or default_cache_folder())
    if writes:
        stage_cache.require_writable()
        require_writable(folder.path)
    console = Console(stderr=True)
    warn_before_work(plan, registry)
    _announce(plan, folder, console)
    # What a plugin prints must not end up in the table.
    runner = Runner(plan, folder, stage_cache, registry, console, mode.value)
    with contextlib.redirect_stdout(sys.stderr):
        records = runner.run()
    try:
        if writes:
            with contextlib.redirect_stdout(sys.stderr):
                runner.compare()
                _write_report(folder, console)
    finally:
        # Results that are there are shown, even when the disk has no room for the files that show them.
        _show(folder, as_json, None if writes else records)
        missing = _say_what_is_missing(records)
        disagreeing = _say_which_engines_disagree(records)
    if missing or disagreeing:
        raise typer.Exit(EXIT_CELL_MISSING)


def _announce(plan: Plan, folder: RunFolder, console: Console) -> None:
    """What decides the numbers, before any work."""
    cells, request = len(plan.cells), plan.request
    for line in (
        f"{cells} cells on {plan.workload.name}, seeds {','.join(map(str, request.seeds))}, into {folder.path}",
        f"Budget {request.budget}: {plan.preset}",
        f"Protocol {plan.protocol.id}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _write_report(folder: RunFolder, console: Console) -> None:
    from pqbench.report.write import write_report

    names = ", ".join(path.name for path in write_report(folder))
    console.print(f"Wrote {names} into {folder.path}", highlight=False, markup=False, soft_wrap=True)


def _show(folder: RunFolder, as_json: bool, records: list[Record] | None) -> None:
    """The table of these records (None: of all in the folder)."""
    from pqbench.report.renderers.formats import Format, print_table, rendered

    if as_json:
        sys.stdout.write(rendered(folder, Format.JSON, records=records))
    else:
        print_table(folder, records=records)


def _say_which_engines_disagree(records: list[Record]) -> bool:
    """Name each engine that computes another model than its simulation; whether there are any."""
    from pqbench.run.outcome import parity_failures

    failures = [(record, text) for record in records for text in parity_failures(record.metrics)]
    for record, text in failures:
        typer.echo(f"{record.label} seed {record.seed}: {text}", err=True)
    return bool(failures)


def _say_what_is_missing(records: list[Record]) -> bool:
    """Name each cell without results, and why; whether there are any."""
    missing = [record for record in records if record.status != "ok"]
    for record in missing:
        where = f" ({record.notes[0]})" if record.notes else ""
        typer.echo(f"{record.label} seed {record.seed} {record.status}: {record.reason}{where}", err=True)
    if any(record.status == "failed" for record in missing):
        typer.echo("Failed cells are run again with --mode retry, or once their plugin has changed.", err=True)
    return bool(missing)
