"""The formats of `pqbench compare`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from enum import StrEnum

from pqbench.report.tables.table import Table
from pqbench.results.comparisons import Comparison


class ComparisonFormat(StrEnum):
    """What `pqbench compare --format` takes."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


CSV_COLUMNS = (
    "a",
    "b",
    "a_precision",
    "b_precision",
    "a_steps",
    "b_steps",
    "a_seeds",
    "b_seeds",
    "metric",
    "direction",
    "n",
    "a_value",
    "b_value",
    "test",
    "over",
    "difference",
    "low",
    "high",
    "ratio",
    "ratio_low",
    "ratio_high",
    "bias",
    "verdict",
)
"""Names of the columns, in order: one row a finding, at full precision."""


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """One row for each test of each comparison; what a test does not give is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for each in comparisons:
        sides = {
            f"{side}{name}": value
            for side, row in (("a", each.a), ("b", each.b))
            for name, value in {
                "": row.label,
                "_precision": row.precision,
                "_steps": row.steps,
                "_seeds": " ".join(map(str, row.seeds)),
                "_value": row.value,
            }.items()
        }
        facts = {"metric": each.metric, "direction": each.direction, "n": each.n}
        writer.writerows({**sides, **facts, **finding.model_dump()} for finding in each.findings)
    return text.getvalue()


def comparisons_json(runs: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    """`{"runs": [...], "comparisons": [...]}`."""
    document = {"runs": list(runs), "comparisons": [each.model_dump(mode="json") for each in comparisons]}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def print_comparisons(table: Table) -> None:
    """Print to the terminal, in colour where it can, as wide as the window."""
    from rich.console import Console

    from pqbench.report.renderers.terminal import TerminalTable

    Console().print(TerminalTable(table))
