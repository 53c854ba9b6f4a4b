"""`pqbench plan`: show what a run would do, without doing it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

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
    warn_before_work,
    with_ablation,
)


def plan(
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
    judge: Judge = "simulation",
    cache: CacheFolder = None,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show cells, stages, all resolved parameters, and what is in the cache already."""
    from pqbench.run.cache import StageCache, default_cache_folder
    from pqbench.run.plan import make_plan

    registry = build_registry(plugins)
    methods = with_ablation(methods, ablation, budget, registry)
    scoring = build_scoring(metrics, protocol, reference, weights, half_features)
    request = build_request(methods, workload, budget, seeds, samples, engines, device, scoring, judge)
    made = make_plan(request, registry)
    warn_before_work(made, registry)
    stage_cache = StageCache(cache or default_cache_folder())
    cells = [
        {
            "label": cell.job.composition.label,
            "precision": str(cell.job.composition.precision),
            "steps": cell.job.steps,
            "seed": cell.job.seed,
            "cell": cell.key,
            "components": cell.job.composition.facts(),
            "stages": [{"stage": stage.name, "key": stage.key, "cached": stage_cache.has(stage.key)} for stage in cell],
        }
        for cell in made.cells
    ]
    content: dict[str, Any] = {
        "workload": made.workload.name,
        "budget": budget.value,
        "preset": asdict(made.preset),
        "protocol": {"id": made.protocol.id, **made.protocol.facts},
        "metrics": [part.component.name for part in made.cells[0].job.scoring.metrics],
        "cells": cells,
    }
    if as_json:
        typer.echo(json.dumps(content, indent=2))
        return
    typer.echo(f"Workload {made.workload.name}, protocol {made.protocol.id}")
    typer.echo(f"Budget {budget.value}: {made.preset}")
    typer.echo(f"Metrics {', '.join(content['metrics'])}")
    for line in _lines(content["cells"]):
        typer.echo(line)


def _lines(cells: list[dict[str, Any]]) -> list[str]:
    lines = []
    for cell in cells:
        lines.append("")
        lines.append(f"{cell['label']}  {cell['precision']}  {cell['steps']} steps  seed {cell['seed']}")
        for role, facts in cell["components"].items():
            settings = ", ".join(f"{name}={value}" for name, value in facts.get("parameters", {}).items())
            origin = f"{facts['distribution']} {facts['version']}".strip()
            lines.append(f"  {role}: {facts['name']} ({origin}) {settings}".rstrip())
        lines.append("  stages: " + ", ".join(_stage(stage) for stage in cell["stages"]))
    return lines


def _stage(stage: dict[str, Any]) -> str:
    return f"{stage['stage']} {stage['key'][:8]}" + (" (cached)" if stage["cached"] else "")
