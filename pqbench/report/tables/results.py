"""From records to the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pqbench.report.tables.caption import caption
from pqbench.report.tables.evidence import Evidence
from pqbench.report.tables.footnotes import Footnotes, footnotes_of
from pqbench.report.tables.measures import Measure, measures
from pqbench.report.tables.numbers import decimals, fixed
from pqbench.report.tables.table import Column, Section, Table, TableCell
from pqbench.results.comparisons import Comparison
from pqbench.results.estimates import Estimate
from pqbench.results.records import Manifest, Record
from pqbench.results.rows import Group, Row, grouped

NAMES = (
    Column("method", "Method", align="left", is_name=True),
    Column("precision", "Bits", "W/A"),
    Column("steps", "Steps"),
)


def results_table(records: Iterable[Record], manifest: Manifest, comparisons: Iterable[Comparison] = ()) -> Table:
    """All results of a run, a section for each protocol of quality; full precision first in each.

    Cells that differ in their seed alone are averaged. A failed cell keeps its row and says why in a footnote.
    `comparisons` of rows decide what is better where they are given, else intervals do.
    """
    evidence = Evidence(comparisons)
    sections = tuple(
        _section(group, manifest, distance_of(group, manifest), evidence) for group in grouped(records, manifest)
    )
    sections = sections or (Section("", NAMES, (), caption=("No cell has finished or failed yet.",)),)
    return Table(title=f"{manifest.workload.get('name', 'Results')}, budget {manifest.budget}", sections=sections)


def distance_name(manifest: Manifest) -> str:
    """What the workload calls its Frechet distance; FID is only what the workload itself calls so."""
    return str(manifest.workload.get("distance") or "FD")


def distance_of(group: Group, manifest: Manifest) -> str:
    """What the group's protocol calls its Frechet distance, else the workload."""
    return str(manifest.protocols.get(group.protocol, {}).get("distance") or distance_name(manifest))


def _section(group: Group, manifest: Manifest, distance: str, evidence: Evidence) -> Section:
    columns = measures(group, distance)
    footnotes = Footnotes()
    names = [_name_cells(row, footnotes.numbers(footnotes_of(row))) for row in group.rows]
    numbers = [_column_cells(measure, group.rows, footnotes, evidence) for measure in columns]
    rows = [
        _with_status(row, columns, (*name, *(column[i] for column in numbers)))
        for i, (row, name) in enumerate(zip(group.rows, names, strict=True))
    ]
    return Section(
        title=f"{group.workload}, budget {group.budget}, protocol {group.protocol or 'none'}",
        columns=(*NAMES, *(measure.column for measure in columns)),
        rows=tuple(rows),
        caption=tuple(caption(group, manifest, distance, evidence)),
        footnotes=footnotes.texts,
    )


def _name_cells(row: Row, notes: tuple[int, ...]) -> tuple[TableCell, ...]:
    bits = row.precision
    return (
        TableCell(row.label, row.label, notes=notes),
        TableCell(f"{bits.w}/{bits.a}", str(bits)),
        TableCell(str(row.steps), row.steps),
    )


def _column_cells(measure: Measure, rows: Sequence[Row], footnotes: Footnotes, evidence: Evidence) -> list[TableCell]:
    """One column, with the same decimals all the way down."""
    estimates = [measure.read(row) for row in rows]
    there = [estimate for estimate in estimates if estimate is not None]
    are_counts = all(float(estimate.value).is_integer() and estimate.low is None for estimate in there)
    places = 0 if are_counts else decimals(estimate.value for estimate in there)
    best = _best(measure, rows, estimates, evidence)
    noise = [footnotes.numbers(iter(measure.noise(row))) for row in rows]
    remarks = [footnotes.numbers(iter(measure.remarks(row))) for row in rows]
    notes = [tuple(sorted((*doubts, *others))) for doubts, others in zip(noise, remarks, strict=True)]
    cells = [
        TableCell() if estimate is None else replace(_number(measure, estimate, places), notes=marks)
        for estimate, marks in zip(estimates, notes, strict=True)
    ]
    if best is not None and not noise[best]:
        # Nothing stands out that reads the same.
        is_unique = sum(cell.text == cells[best].text for cell in cells) == 1
        cells[best] = replace(cells[best], is_best=is_unique)
    return cells


def _number(measure: Measure, estimate: Estimate, places: int) -> TableCell:
    text = measure.words.get(estimate.value) or fixed(estimate.value, places)
    if measure.shows_interval and estimate.low is not None and estimate.high is not None:
        text += f" [{fixed(estimate.low, places)}, {fixed(estimate.high, places)}]"
    return TableCell(text, estimate.value, estimate.low, estimate.high)


def _best(
    measure: Measure, rows: Sequence[Row], estimates: Sequence[Estimate | None], evidence: Evidence
) -> int | None:
    """Position of the compressed method that is better than every other one, as far as the evidence supports that."""
    if measure.column.direction == "none":
        return None
    rivals = [(i, e) for i, (row, e) in enumerate(zip(rows, estimates, strict=True)) if e and not row.is_reference]
    for position, estimate in rivals:
        others = [(rows[i], other) for i, other in rivals if i != position]
        if others and all(
            evidence.is_better(rows[position], row, measure.metric, estimate, other, measure.is_exact)
            for row, other in others
        ):
            return position
    return None


def _with_status(row: Row, columns: Sequence[Measure], cells: tuple[TableCell, ...]) -> tuple[TableCell, ...]:
    """A row without any result says `failed` (or `skipped`) in the first column that judges."""
    judging = (i for i, measure in enumerate(columns, start=len(NAMES)) if measure.column.direction != "none")
    place = next(judging, None)
    if row.finished or place is None:
        return cells
    return (*cells[:place], TableCell(row.records[-1].status), *cells[place + 1 :])
