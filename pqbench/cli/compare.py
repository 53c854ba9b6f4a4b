"""`pqbench compare`: which of two rows is better, by tests that use that both are made from the same noise."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pqbench.cli.shared.request import CacheFolder, Plugins, build_registry, given_path
from pqbench.report.pages.comparison_formats import ComparisonFormat

if TYPE_CHECKING:
    from pqbench.commands.compare import FoundRow, RowComparer
    from pqbench.report.tables.table import Section
    from pqbench.results.comparisons import Comparison
    from pqbench.results.store import RunFolder


def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN2] [A] [B]",
            help="Folders of one or two runs, then rows: pqcad, pqcad@w4a4 or pqcad#PROTOCOL.",
            show_default=False,
        ),
    ],
    metric: Annotated[
        str,
        typer.Option("--metric", help="What many rows are compared by: fd, kid, or another of the run."),
    ] = "fd",
    form: Annotated[
        ComparisonFormat, typer.Option("--format", "-f", help="csv and json have every pair, metric and test.")
    ] = ComparisonFormat.TERMINAL,
    cache: CacheFolder = None,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Test which rows are better: a paired test over images of the same noise, and between seeds from three on.

    RUN: all rows, best first. RUN A: that row against each other one. RUN A B: two rows. RUN RUN2: the rows that both
    runs have. RUN RUN2 A B: A of the first against B of the second (B is A where it is left out).
    """
    runs, rows = _arguments(names)
    comparisons, sections = _compared(runs, rows, metric, cache, plugins)
    _show([str(run.path) for run in runs], comparisons, sections, ComparisonFormat.JSON if as_json else form)


def _arguments(names: list[str]) -> tuple[list[RunFolder], list[str]]:
    """The runs and the names of rows. The second argument is a run where there is one of that name."""
    from pqbench.base.errors import UserError
    from pqbench.results.store import RunFolder

    count = 2 if len(names) > 1 and _is_run(names[1]) else 1
    rows = names[count:]
    if len(rows) > 2:
        raise UserError(f"Rows to compare are at most two; given are {', '.join(rows)}.")
    return [RunFolder.existing(given_path(name)) for name in names[:count]], rows


def _is_run(name: str) -> bool:
    """Whether a name is a run's and not a row's: beside the images of a method there is often a folder of its name.

    The name of a folder in another one is no row's, whatever is in it.
    """
    from pqbench.results.store import holds_run

    path = given_path(name)
    return path.is_dir() and (holds_run(path) or len(path.parts) > 1)


def _compared(
    runs: list[RunFolder], names: list[str], metric: str, cache: Path | None, plugins: list[str] | None
) -> tuple[list[Comparison], list[Section]]:
    """Every comparison that was asked for, and the sections that show it."""
    from pqbench.base.errors import UserError
    from pqbench.commands.compare import RowComparer, find_row, rows_of
    from pqbench.commands.diagnose import workload_of
    from pqbench.report.tables.results import distance_name
    from pqbench.run.cache import StageCache, default_cache_folder

    _require_metric(runs, metric)
    manifest = runs[0].manifest()
    facts = manifest.workload
    registry = build_registry(plugins)
    workload = workload_of(registry, str(facts["name"]), facts.get("fingerprint"))
    comparer = RowComparer(StageCache(cache or default_cache_folder()), workload, registry)
    distance, first, last = distance_name(manifest), rows_of(runs[0]), rows_of(runs[-1])
    if len(names) == 2 or (names and len(runs) == 2):
        return _two(find_row(first, names[0]), find_row(last, names[-1]), comparer, distance)
    title = str(runs[0].path) if len(runs) == 1 else f"{runs[0].path} (first) against {runs[1].path} (second)"
    if names:
        found, sections = _one(find_row(first, names[0]), first, comparer, metric, distance)
    elif len(runs) == 2:
        found, sections = _same_names(first, last, comparer, metric, distance, title)
    else:
        found, sections = _all(first, comparer, metric, distance)
    if not sections:
        raise UserError(
            f"There are no two rows to compare by {metric} in {title}: rows are compared where both have it, under one "
            "protocol, and where it says what each image contributes; see pqbench report."
        )
    return found, sections


def _require_metric(runs: list[RunFolder], metric: str) -> None:
    from pqbench.base.errors import UserError
    from pqbench.base.text import did_you_mean
    from pqbench.results.rows import quality_names

    records = [record for run in runs for record in run.current_records()]
    known = [name for name in quality_names(records) if any(name in record.metrics for record in records)]
    if metric not in known:
        hint = did_you_mean(metric, known, most=1)
        raise UserError(f"--metric {metric} is not a metric of these images.{hint} There are: {', '.join(known)}.")


def _two(a: FoundRow, b: FoundRow, comparer: RowComparer, distance: str) -> tuple[list[Comparison], list[Section]]:
    from pqbench.report.pages.comparison_tables import metrics_section

    found, (first, second) = comparer.compare(a, b), _titles(a, b)
    return found, [metrics_section(found, distance, first, second)]


def _one(
    row: FoundRow, rows: list[FoundRow], comparer: RowComparer, metric: str, distance: str
) -> tuple[list[Comparison], list[Section]]:
    """One row against each other one of its section."""
    others = [each for each in rows if each.row is not row.row and each.group.protocol == row.group.protocol]
    found = [comparison for other in others for comparison in comparer.compare(row, other)]
    title = f"{row.run.path}: {row.title} (first) against each other row (second)"
    return found, _pairs(found, metric, distance, title)


def _same_names(
    first: list[FoundRow], last: list[FoundRow], comparer: RowComparer, metric: str, distance: str, title: str
) -> tuple[list[Comparison], list[Section]]:
    """The rows that two runs have in common."""
    shared = [(a, b) for a in first for b in last if a.title == b.title]
    found = [comparison for a, b in shared for comparison in comparer.compare(a, b)]
    return found, _pairs(found, metric, distance, title)


def _pairs(found: list[Comparison], metric: str, distance: str, title: str) -> list[Section]:
    from pqbench.report.pages.comparison_tables import pairs_section

    chosen = [each for each in found if each.metric == metric]
    return [pairs_section(chosen, distance, title)] if chosen else []


def _all(
    rows: list[FoundRow], comparer: RowComparer, metric: str, distance: str
) -> tuple[list[Comparison], list[Section]]:
    """Every pair, a section of the run's table after the other."""
    from pqbench.report.pages.comparison_tables import order_sections

    groups = list(comparer.compare_all(rows))
    chosen = [[each for each in group if each.metric == metric] for group in groups]
    sections = [
        replace(section, title=f"{rows[0].run.path}: {section.title}")
        for each in chosen
        if each
        for section in order_sections(each, distance)
    ]
    return [comparison for group in groups for comparison in group], sections


def _titles(a: FoundRow, b: FoundRow) -> tuple[str, str]:
    if a.run.path == b.run.path:
        return a.title, b.title
    return f"{a.title} ({a.run.path})", f"{b.title} ({b.run.path})"


def _show(runs: list[str], comparisons: list[Comparison], sections: list[Section], form: ComparisonFormat) -> None:
    from pqbench.report.pages.comparison_formats import comparisons_csv, comparisons_json, print_comparisons
    from pqbench.report.renderers.markdown import markdown
    from pqbench.report.tables.table import Table

    table = Table("Comparison of rows" if len(sections) > 1 else sections[0].title, tuple(sections))
    match form:
        case ComparisonFormat.TERMINAL:
            print_comparisons(table)
        case ComparisonFormat.MARKDOWN:
            sys.stdout.write(markdown(table))
        case ComparisonFormat.CSV:
            sys.stdout.write(comparisons_csv(comparisons))
        case ComparisonFormat.JSON:
            sys.stdout.write(comparisons_json(runs, comparisons))
