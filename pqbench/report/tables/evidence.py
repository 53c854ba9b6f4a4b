"""What is known about two rows of a table: the tests where a run kept some, else their intervals."""

from __future__ import annotations

from collections.abc import Iterable

from pqbench.comparison.pairing import pair
from pqbench.results.comparisons import Comparison, ComparisonIndex
from pqbench.results.estimates import Estimate
from pqbench.results.rows import Row


class Evidence:
    """Verdicts on pairs of rows, from the comparisons that a run's folder keeps (none: from intervals alone)."""

    def __init__(self, comparisons: Iterable[Comparison] = ()) -> None:
        self._index = ComparisonIndex(comparisons)

    def comparison(self, a: Row, b: Row, metric: str) -> Comparison | None:
        """The kept comparison of exactly the rows' present cells, `a` first."""
        return self._index.between(*pair(a.finished, b.finished).cells, metric)

    def is_better(self, a: Row, b: Row, metric: str, ours: Estimate, theirs: Estimate, exact: bool = False) -> bool:
        """Whether `a` is better than `b`, by the test over images and, from three seeds on, by that between seeds.

        ours, theirs   their estimates, whose intervals decide where no test was kept
        """
        found = self.comparison(a, b, metric)
        if found is not None:
            return found.is_better
        return ours.surely_better_than(theirs, exact)
