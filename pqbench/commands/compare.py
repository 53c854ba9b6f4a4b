"""Rows of one run or of two, found by what a user calls them, and compared."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path

from pqbench.base.errors import UserError
from pqbench.base.text import did_you_mean
from pqbench.comparison.pairing import pair
from pqbench.components import Registry
from pqbench.contracts import Workload
from pqbench.results.comparisons import Comparison, ComparisonIndex
from pqbench.results.records import Manifest
from pqbench.results.rows import Group, Row, grouped
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache
from pqbench.run.comparisons import Comparer, Facts, MissingOutputError, known, require_same_scoring


@dataclass(frozen=True)
class FoundRow:
    """A row with the run and the section of its table that it stands in."""

    run: RunFolder
    manifest: Manifest
    group: Group
    row: Row

    @property
    def title(self) -> str:
        """`pqcad w4a4`."""
        return f"{self.row.label} {self.row.precision}"

    @property
    def facts(self) -> Facts:
        """Everything that the protocol fixes which scored the row."""
        return self.manifest.protocols.get(self.group.protocol, {})


def rows_of(run: RunFolder) -> list[FoundRow]:
    """All rows of a run that have images to compare."""
    manifest = run.manifest()
    return [
        FoundRow(run, manifest, group, row)
        for group in grouped(run.current_records(), manifest)
        for row in group.rows
        if group.protocol and row.finished
    ]


def find_row(rows: Iterable[FoundRow], name: str) -> FoundRow:
    """The row `LABEL[@PRECISION][#PROTOCOL]`; a method's name stands for its only row.

    Raises `UserError` when no row has the name, with the nearest, and when several do.
    """
    rows = list(rows)
    label, protocol = split_name(name, "#")
    label, precision = split_name(label, "@")
    fits = [
        each for each in rows if precision in ("", str(each.row.precision)) and each.group.protocol.startswith(protocol)
    ]
    found = [each for each in fits if each.row.label == label]
    found = found or [each for each in fits if each.row.records[0].method == label]
    if len(found) == 1:
        return found[0]
    if not found:
        labels = list(dict.fromkeys(each.row.label for each in rows))
        hint = did_you_mean(label, labels, most=1, cutoff=0)
        raise UserError(f"No finished row is called {name}.{hint} The rows are {', '.join(labels) or 'none'}.")
    choices = ", ".join(f"{each.row.label}@{each.row.precision}#{each.group.protocol}" for each in found)
    raise UserError(f"{name} may be any of {choices}: give one of these.")


@dataclass
class RowComparer:
    """Compares rows of one workload; what a run has kept is taken from its folder, the rest from the stage cache."""

    cache: StageCache
    workload: Workload
    registry: Registry
    _kept: dict[Path, ComparisonIndex] = field(default_factory=dict)

    def compare(self, a: FoundRow, b: FoundRow) -> list[Comparison]:
        """Two rows by every metric that both have.

        Raises `UserError` for rows that were scored differently and, with the command that makes it again, for what is
        neither kept nor in the cache.
        """
        require_same_scoring(a.facts, b.facts, (_place(a, b), _place(b, a)))
        kept = known(a.row, b.row, self._index(a.run))
        if kept:
            return kept
        try:
            return list(self._comparer.compare(pair(a.row.finished, b.row.finished), a.facts))
        except MissingOutputError as error:
            raise UserError(f"{error}; make it again with: {_again(a, b)}") from None

    def compare_all(self, rows: Iterable[FoundRow]) -> Iterator[list[Comparison]]:
        """All pairs of each section of a run's table: a list for each section that has two rows."""
        sections: dict[tuple[str, str], list[FoundRow]] = {}
        for each in rows:
            sections.setdefault((each.group.budget, each.group.protocol), []).append(each)
        for members in sections.values():
            found = [comparison for a, b in combinations(members, 2) for comparison in self.compare(a, b)]
            if found:
                yield found

    @cached_property
    def _comparer(self) -> Comparer:
        return Comparer(self.cache, self.workload, self.registry)

    def _index(self, run: RunFolder) -> ComparisonIndex:
        if run.path not in self._kept:
            self._kept[run.path] = ComparisonIndex(run.comparisons())
        return self._kept[run.path]


def split_name(text: str, separator: str) -> tuple[str, str]:
    """At the last separator that is not inside an option's brackets."""
    head, found, tail = text.rpartition(separator)
    return (head, tail) if found and "]" not in tail else (text, "")


def _place(row: FoundRow, other: FoundRow) -> str:
    return row.title if row.run.path == other.run.path else f"{row.title} of {row.run.path}"


def _again(a: FoundRow, b: FoundRow) -> str:
    """The commands that made the runs, into their folders and in the mode that makes everything anew."""
    return " ; ".join(dict.fromkeys(shlex.join(_forced(each)) for each in (a, b)))


def _forced(row: FoundRow) -> list[str]:
    words = shlex.split(row.manifest.command)
    for names, value in ((("--mode",), "force"), (("--output", "-o"), str(row.run.path))):
        places = [i for i, word in enumerate(words) if word in names]
        words = [word for i, word in enumerate(words) if i not in places and i - 1 not in places]
        words = [word for word in words if not word.startswith(f"{names[0]}=")] + [names[0], value]
    return words
