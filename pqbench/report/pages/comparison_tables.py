"""Comparisons of rows as tables: two rows by every metric, one metric over many pairs, or all rows in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pqbench.report.tables.numbers import decimals, fixed
from pqbench.report.tables.table import ARROWS, DASH, Column, Section, TableCell
from pqbench.results.comparisons import ComparedRow, Comparison, Finding, Verdict

MARKS: dict[Verdict, str] = {"better": "+", "worse": "−", "no evidence": "≈"}
"""A verdict in a matrix."""


Pairs = Mapping[tuple[str, str], Comparison]
"""Comparisons by the titles of their rows, either way round."""


def metric_heading(comparison: Comparison, distance: str) -> str:
    """`PSNR to FP (dB) ↑`; `distance` is what the workload calls its Frechet distance."""
    older = {"fd": distance, "kid": "KID", "psnr_to_fp": "PSNR to FP"}
    name = comparison.title or older.get(comparison.metric, comparison.metric)
    unit = f" ({comparison.unit})" if comparison.unit else ""
    return f"{name}{unit} {ARROWS[comparison.direction]}".rstrip()


def metrics_section(comparisons: Sequence[Comparison], distance: str, a: str, b: str) -> Section:
    """Two rows, called `a` and `b`: one line for each metric."""
    columns = (
        Column("metric", "Metric", align="left", is_name=True),
        Column("a", "first"),
        Column("b", "second"),
        *_finding_columns(comparisons),
    )
    rows = tuple(
        (TableCell(metric_heading(each, distance)), *_values(each), *_finding_cells(each, _has_seeds(comparisons)))
        for each in comparisons
    )
    return Section(f"{a} (first) against {b} (second)", columns, rows, tuple(_caption(comparisons)))


def pairs_section(comparisons: Sequence[Comparison], distance: str, title: str) -> Section:
    """Many pairs by one metric, a line for the second row of each; the title says which the first rows are."""
    heading = metric_heading(comparisons[0], distance)
    columns = (
        Column("row", "Row", align="left", is_name=True),
        Column("a", "first", group=heading),
        Column("b", "second", group=heading),
        *_finding_columns(comparisons),
    )
    rows = tuple(
        (TableCell(each.b.title), *_values(each), *_finding_cells(each, _has_seeds(comparisons)))
        for each in comparisons
    )
    return Section(title, columns, rows, tuple(_caption(comparisons)))


def order_sections(comparisons: Sequence[Comparison], distance: str) -> tuple[Section, Section]:
    """All rows by one metric, best first: each against the one above and the first, then every pair as a matrix.

    `comparisons` hold every pair of the rows once.
    """
    ranked, known = _ranked(comparisons), _either_way(comparisons)
    heading, has_seeds = metric_heading(comparisons[0], distance), _has_seeds(comparisons)
    places = decimals(row.value for row in ranked)
    columns = (
        Column("place", "", is_name=True),
        Column("row", "Row", align="left", is_name=True),
        Column("value", heading),
        *_against_columns("against the one above", has_seeds),
        *_against_columns("against the first", has_seeds),
    )

    def line(place: int, row: ComparedRow) -> tuple[TableCell, ...]:
        others = (ranked[place - 2], ranked[0]) if place > 1 else (row, row)
        found = [known.get((row.title, other.title)) for other in others]
        against = (cell for each in found for cell in _against_cells(each, has_seeds))
        return TableCell(str(place)), TableCell(row.title), TableCell(fixed(row.value, places)), *against

    rows = tuple(line(place, row) for place, row in enumerate(ranked, start=1))
    order = Section(f"rows by {heading}, best first", columns, rows, tuple(_caption(comparisons)))
    return order, _matrix(ranked, known, heading)


def _matrix(ranked: Sequence[ComparedRow], known: Pairs, heading: str) -> Section:
    def mark(a: ComparedRow, b: ComparedRow) -> TableCell:
        found = known.get((a.title, b.title))
        return TableCell("") if found is None else TableCell(MARKS[found.verdict], found.verdict)

    columns = (
        Column("place", "", is_name=True),
        Column("row", "Row", align="left", is_name=True),
        *(Column(f"against_{place}", str(place)) for place in range(1, len(ranked) + 1)),
    )
    rows = tuple(
        (TableCell(str(place)), TableCell(row.title), *(mark(row, other) for other in ranked))
        for place, row in enumerate(ranked, start=1)
    )
    reading = "Row against column, by the test over images: + better, − worse, ≈ no evidence."
    return Section(f"every pair by {heading}", columns, rows, (reading,))


def _ranked(comparisons: Sequence[Comparison]) -> list[ComparedRow]:
    """The rows, best first; one that was compared on other seeds with each partner, by the most of them."""
    rows: dict[str, ComparedRow] = {}
    for row in (row for each in comparisons for row in (each.a, each.b)):
        if row.title not in rows or len(row.seeds) > len(rows[row.title].seeds):
            rows[row.title] = row
    sign = 1 if comparisons[0].direction == "lower" else -1
    return sorted(rows.values(), key=lambda row: (sign * row.value, row.title))


def _either_way(comparisons: Iterable[Comparison]) -> Pairs:
    pairs = {}
    for each in comparisons:
        pairs[each.a.title, each.b.title] = each
        pairs[each.b.title, each.a.title] = each.flipped()
    return pairs


def _caption(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Which tests were made, and what they leave out."""
    for over, name in {"images": "Test", "seeds": "Between seeds"}.items():
        tests = dict.fromkeys(f.test for each in comparisons for f in each.findings if f.over == over)
        if tests:
            yield f"{name}: {'; '.join(tests)}. Brackets: 95 % interval."
    yield (
        "Better or worse: the interval of the difference excludes zero, also without the bias that this number of "
        "images gives both distances."
    )
    rest = "; the test between seeds holds it." if _has_seeds(comparisons) else "."
    yield (
        "The test over images takes the compressed models as they are: what another calibration or training would "
        f"change is not in it{rest}"
    )
    if len({(each.a.cells, each.b.cells) for each in comparisons}) > 1:
        yield "Every verdict stands alone: of twenty pairs without a difference, one is called different by chance."


def _against_columns(group: str, has_seeds: bool) -> Iterator[Column]:
    yield Column("difference", "difference", group=group)
    yield Column("verdict", "verdict", group=group, align="left")
    if has_seeds:
        yield Column("verdict_between_seeds", "between seeds", group=group, align="left")


def _against_cells(comparison: Comparison | None, has_seeds: bool) -> Iterator[TableCell]:
    yield TableCell() if comparison is None else TableCell(_difference(comparison, comparison.findings[0]))
    yield TableCell() if comparison is None else _verdict_cell(comparison.findings[0])
    if has_seeds:
        seeds = comparison and comparison.between_seeds
        yield _verdict_cell(seeds) if seeds else TableCell()


def _finding_columns(comparisons: Sequence[Comparison]) -> Iterator[Column]:
    yield Column("difference", "Difference")
    yield Column("ratio", "Ratio")
    yield Column("verdict", "Verdict", align="left")
    if _has_seeds(comparisons):
        yield Column("difference_between_seeds", "Difference", group="between seeds")
        yield Column("verdict_between_seeds", "Verdict", group="between seeds", align="left")


def _finding_cells(comparison: Comparison, has_seeds: bool) -> Iterator[TableCell]:
    first, seeds = comparison.findings[0], comparison.between_seeds
    yield TableCell(_difference(comparison, first))
    yield TableCell(_ratio(first))
    yield _verdict_cell(first)
    if has_seeds:
        yield TableCell(_difference(comparison, seeds)) if seeds else TableCell()
        yield _verdict_cell(seeds) if seeds else TableCell()


def _has_seeds(comparisons: Iterable[Comparison]) -> bool:
    return any(each.between_seeds for each in comparisons)


def _values(comparison: Comparison) -> tuple[TableCell, TableCell]:
    places = _places(comparison)
    a, b = comparison.a.value, comparison.b.value
    return TableCell(fixed(a, places), a), TableCell(fixed(b, places), b)


def _places(comparison: Comparison) -> int:
    return decimals((comparison.a.value, comparison.b.value))


def _difference(comparison: Comparison, finding: Finding) -> str:
    """With at least two digits of the interval's half-width."""
    places = max(_places(comparison), decimals([(finding.high - finding.low) / 2], fewest=2))
    low, high = fixed(finding.low, places), fixed(finding.high, places)
    sign = "+" if finding.difference > 0 else ""
    return f"{sign}{fixed(finding.difference, places)} [{low}, {high}]"


def _ratio(finding: Finding) -> str:
    if finding.ratio is None or finding.ratio_low is None or finding.ratio_high is None:
        return DASH
    return f"{fixed(finding.ratio, 2)} [{fixed(finding.ratio_low, 2)}, {fixed(finding.ratio_high, 2)}]"


def _verdict_cell(finding: Finding) -> TableCell:
    return TableCell(finding.verdict, finding.verdict, is_best=finding.verdict == "better")
