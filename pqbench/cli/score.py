"""`pqbench score`: score images that anything made."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pqbench.cli.shared.request import (
    CacheFolder,
    Device,
    HalfFeatures,
    Plugins,
    ProtocolName,
    ReferencePath,
    WeightsPath,
    build_registry,
    build_scoring,
    given_path,
)

if TYPE_CHECKING:
    from pqbench.commands.score import ImageScores
    from pqbench.report.tables.table import Table


def score(
    images: Annotated[
        Path,
        typer.Argument(
            parser=given_path,
            help="A folder of images, or an .npz or .safetensors file with an array.",
            show_default=False,
        ),
    ],
    reference: ReferencePath = None,
    protocol: ProtocolName = None,
    workload: Annotated[
        str | None, typer.Option("--workload", "-w", help="Its extractor and statistics, where none are named.")
    ] = None,
    metrics: Annotated[
        str, typer.Option("--metrics", help="Metrics of the images: fd,is[splits=5], or all that can be computed.")
    ] = "fd,kid",
    fp_images: Annotated[
        Path | None,
        typer.Option(
            "--fp-images",
            parser=given_path,
            help="The full-precision model's images of the same noise, in the same order: for psnr_to_fp, lpips_to_fp.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            parser=given_path,
            help="For clip_score: a .txt file, a line for each image, or a .json file by file names.",
        ),
    ] = None,
    weights: WeightsPath = None,
    half_features: HalfFeatures = False,
    device: Device = "cpu",
    cache: CacheFolder = None,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to stderr.")] = False,
) -> None:
    """Score images against real ones by the metrics of runs: what checks a claim, whoever made the images."""
    from rich.console import Console

    from pqbench.base.devices import require_usable_device
    from pqbench.commands.score import Judged, score_images
    from pqbench.run.cache import StageCache, default_cache_folder
    from pqbench.scoring.images.prompt_files import read_prompts
    from pqbench.scoring.images.sources import open_images

    require_usable_device(device)
    request = build_scoring(metrics, protocol, reference, weights, half_features)
    registry = build_registry(plugins)
    known = None if workload is None else registry.get("workload", workload)()
    stage_cache = StageCache(cache or default_cache_folder())
    source = open_images(images)
    judged = Judged(
        source,
        None if fp_images is None else open_images(fp_images),
        None if prompts is None else read_prompts(prompts, source),
    )
    with contextlib.redirect_stdout(sys.stderr):
        found = score_images(judged, request, registry, stage_cache, Console(stderr=True), known, device)
    for note in found.notes:
        typer.echo(note, err=True)
    if as_json:
        sys.stdout.write(json.dumps(_document(found), indent=2) + "\n")
        return
    from pqbench.report.renderers.terminal import TerminalTable

    Console().print(TerminalTable(_table(found)))


def _document(found: ImageScores) -> dict[str, Any]:
    return {
        **{name: str(path) for name, (path, _) in _given(found).items()},
        **{f"{name}_sha256": sha256 for name, (_, sha256) in _given(found).items()},
        "protocol": {"id": found.protocol.id, **found.protocol.facts},
        "metrics": {name: metric.model_dump(mode="json") for name, metric in found.metrics.items()},
    }


def _given(found: ImageScores) -> dict[str, tuple[Path, str]]:
    """Paths and hashes of what was scored, and of what it was compared to."""
    judged = found.judged
    given = {"images": (judged.images.path, judged.images.sha256)}
    if judged.partners is not None:
        given["fp_images"] = judged.partners.path, judged.partners.sha256
    if judged.prompts is not None:
        given["prompts"] = judged.prompts.path, judged.prompts.sha256
    return given


def _table(found: ImageScores) -> Table:
    """One row a metric, with the protocol under it."""
    from pqbench.report.tables.footnotes import Footnotes
    from pqbench.report.tables.numbers import decimals, fixed
    from pqbench.report.tables.table import ARROWS, DASH, Column, Section, Table, TableCell

    footnotes, rows = Footnotes(), []
    for metric in found.metrics.values():
        notes = footnotes.numbers(iter(metric.detail.get("notes", ())))
        places = decimals([each for each in (metric.value, metric.low, metric.high) if each is not None])
        unit = f" ({metric.unit})" if metric.unit else ""
        bounds = [DASH if bound is None else fixed(bound, places) for bound in (metric.low, metric.high)]
        interval = f"[{', '.join(bounds)}]" if metric.low is not None else DASH
        heading = f"{metric.title}{unit} {ARROWS[metric.direction]}"
        rows.append((TableCell(heading, notes=notes), TableCell(fixed(metric.value, places)), TableCell(interval)))
    title = str(found.judged.images.path)
    section = Section(
        title,
        (
            Column("metric", "Metric", align="left", is_name=True),
            Column("value", "Value"),
            Column("low", "95 % interval"),
        ),
        tuple(rows),
        caption=tuple(_caption(found)),
        footnotes=footnotes.texts,
    )
    return Table(title, (section,))


def _caption(found: ImageScores) -> Iterator[str]:
    """Every protocol with what it fixes, then what was given."""
    from pqbench.report.tables.caption import protocol_line

    facts = {found.protocol.id: found.protocol.facts}
    families: dict[str, list[str]] = {}
    for metric in found.metrics.values():
        facts.setdefault(metric.protocol, metric.detail.get("protocol", {}))
        families.setdefault(metric.protocol, []).append(metric.title)
    for protocol, titles in families.items():
        yield protocol_line(protocol, titles, facts[protocol])
    for name, (path, sha256) in _given(found).items():
        counted = f"{found.protocol.n} images" if name == "images" else f"--{name.replace('_', '-')} {path}"
        yield f"{counted}, sha256 {sha256}."
