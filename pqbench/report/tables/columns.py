"""A table with some of its columns: a paper has room for six, not for twenty."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace

from pqbench.base.errors import UserError
from pqbench.base.text import did_you_mean
from pqbench.report.tables.results import NAMES
from pqbench.report.tables.table import Section, Table


def with_columns(table: Table, patterns: Sequence[str]) -> Table:
    """The table with method, bits and steps, and the columns that a pattern names, in the patterns' order.

    patterns   column keys, in which * and ? stand for any text and any letter: `fd`, `*@openvino/1`

    Raises `UserError` for a pattern that no column of any section matches.
    """
    keys = {column.key: None for section in table.sections for column in section.columns}
    for pattern in patterns:
        if not fnmatch.filter(keys, pattern):
            hint = did_you_mean(pattern, keys, most=1, cutoff=0)
            raise UserError(f"No column is called {pattern}.{hint} The columns are {', '.join(keys)}.")
    return replace(table, sections=tuple(_chosen(section, patterns) for section in table.sections))


def _chosen(section: Section, patterns: Sequence[str]) -> Section:
    wanted = [
        index
        for pattern in patterns
        for index, column in enumerate(section.columns)
        if fnmatch.fnmatchcase(column.key, pattern)
    ]
    order = list(dict.fromkeys([*range(len(NAMES)), *wanted]))
    return replace(
        section,
        columns=tuple(section.columns[index] for index in order),
        rows=tuple(tuple(row[index] for index in order) for row in section.rows),
    )
