"""`pqbench score`: score images that anything made."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pqbench.cli.request import (
    CacheFolder,
    Device,
    HalfFeatures,
    Plugins,
    ProtocolName,
    ReferencePath,
    WeightsPath,
    build_registry,
    build_scoring,
    require_usable_device,
)

if TYPE_CHECKING:
    from pqbench.bench.score_images import ImageScores
    from pqbench.report.table import Table


def score(
    images: Annotated[
        Path,
        typer.Argument(help="A folder of images, or an .npz or .safetensors file with an array.", show_default=False),
    ],
    reference: ReferencePath = None,
    protocol: ProtocolName = None,
    workload: Annotated[
        str | None, typer.Option("--workload", "-w", help="Its extractor and statistics, where none are named.")
    ] = None,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Metrics of the images: fd,is[splits=5], or all that can be computed.")
    ] = "fd,kid",
    weights: WeightsPath = None,
    half_features: HalfFeatures = False,
    device: Device = "cpu",
    cache: CacheFolder = None,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to stderr.")] = False,
) -> None:
    """Score images against real ones by the metrics of runs: what checks a claim, whoever made the images."""
    from rich.console import Console

    from pqbench.bench.cache import StageCache, default_cache_folder
    from pqbench.bench.score_images import score_images
    from pqbench.evaluation.image_sources import open_images

    require_usable_device(device)
    request = build_scoring(metrics, protocol, reference, weights, half_features)
    registry = build_registry(plugins)
    known = None if workload is None else registry.get("workload", workload)()
    stage_cache = StageCache(cache or default_cache_folder())
    with contextlib.redirect_stdout(sys.stderr):
        found = score_images(open_images(images), request, registry, stage_cache, Console(stderr=True), known, device)
    for note in found.notes:
        typer.echo(note, err=True)
    if as_json:
        sys.stdout.write(json.dumps(_document(found), indent=2) + "\n")
        return
    from pqbench.report.terminal import TerminalTable

    Console().print(TerminalTable(_table(found)))


def _document(found: ImageScores) -> dict[str, Any]:
    return {
        "images": str(found.images.path),
        "images_sha256": found.images.sha256,
        "protocol": {"id": found.protocol.id, **found.protocol.facts},
        "metrics": {name: metric.model_dump(mode="json") for name, metric in found.metrics.items()},
    }


def _table(found: ImageScores) -> Table:
    """One row a metric, with the protocol under it."""
    from pqbench.report.footnotes import Footnotes
    from pqbench.report.numbers import decimals, fixed
    from pqbench.report.table import ARROWS, DASH, Cell, Column, Section, Table

    footnotes, rows = Footnotes(), []
    for metric in found.metrics.values():
        notes = footnotes.numbers(iter(metric.detail.get("notes", ())))
        places = decimals([each for each in (metric.value, metric.low, metric.high) if each is not None])
        unit = f" ({metric.unit})" if metric.unit else ""
        bounds = [DASH if bound is None else fixed(bound, places) for bound in (metric.low, metric.high)]
        interval = f"[{', '.join(bounds)}]" if metric.low is not None else DASH
        heading = f"{metric.title}{unit} {ARROWS[metric.direction]}"
        rows.append((Cell(heading, notes=notes), Cell(fixed(metric.value, places)), Cell(interval)))
    facts = ", ".join(f"{name} {value}" for name, value in found.protocol.facts.items())
    section = Section(
        str(found.images.path),
        (
            Column("metric", "Metric", align="left", is_name=True),
            Column("value", "Value"),
            Column("low", "95 % interval"),
        ),
        tuple(rows),
        caption=(
            f"Protocol {found.protocol.id} fixes: {facts}.",
            f"{found.protocol.n} images, sha256 {found.images.sha256}.",
        ),
        footnotes=footnotes.texts,
    )
    return Table(str(found.images.path), (section,))
