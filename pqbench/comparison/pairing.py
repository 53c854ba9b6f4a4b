"""Which cells of two rows are compared: those of the seeds that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pqbench.bench.records import Record


@dataclass(frozen=True)
class Pairing:
    """Records of both rows, in the order of their seeds; seed by seed the same where `is_paired`."""

    a: tuple[Record, ...]
    b: tuple[Record, ...]
    is_paired: bool

    @property
    def cells(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The keys of the cells of both."""
        return tuple(record.cell for record in self.a), tuple(record.cell for record in self.b)

    def metrics(self, names: Sequence[str]) -> list[str]:
        """Those of the metrics `names` that every record has."""
        return [name for name in names if all(name in record.metrics for record in (*self.a, *self.b))]


def pair(a: Sequence[Record], b: Sequence[Record]) -> Pairing:
    """The finished records of two rows on their common seeds; all of them, unpaired, where no seed is common."""
    first, second = ({r.seed: r for r in sorted(each, key=lambda r: r.seed) if r.status == "ok"} for each in (a, b))
    common = [seed for seed in first if seed in second]
    if not common:
        return Pairing(tuple(first.values()), tuple(second.values()), is_paired=False)
    return Pairing(tuple(first[s] for s in common), tuple(second[s] for s in common), is_paired=True)
