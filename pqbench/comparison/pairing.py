"""Which cells of two rows are compared: those of the seeds that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.results.records import Record


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
        """Those of the metrics `names` that every record has, computed with the same parameters and code."""
        records = (*self.a, *self.b)
        return [name for name in names if all(name in r.metrics for r in records) and _is_one_rule(records, name)]


def _is_one_rule(records: Sequence[Record], name: str) -> bool:
    owns = [_own_protocol(record, name) for record in records]
    first, *others = map(_rule, owns)
    return all(other == first for other in others) and _have_one_text_each(owns)


def _own_protocol(record: Record, name: str) -> dict[str, Any]:
    found: dict[str, Any] = record.metrics[name].detail.get("protocol", {})
    return found


def _rule(own: dict[str, Any]) -> dict[str, Any]:
    """What a metric's own protocol fixes beside that of the images, which rows are compared under anyway.

    Prompts come with seeds, as noise does: those of other seeds do not make another rule.
    """
    return {fact: value for fact, value in own.items() if fact not in ("images", "prompts_sha256")}


def _have_one_text_each(owns: Sequence[dict[str, Any]]) -> bool:
    """Whether images of one protocol, which fixes the seeds, were held against the same prompts.

    Of runs with other seeds, hashes cannot say whether the prompts of common seeds are the same.
    """
    prompts = {(own.get("images"), own.get("prompts_sha256")) for own in owns}
    return len(prompts) == len({images for images, _ in prompts})


def pair(a: Sequence[Record], b: Sequence[Record]) -> Pairing:
    """The finished records of two rows on their common seeds; all of them, unpaired, where no seed is common."""
    first, second = ({r.seed: r for r in sorted(each, key=lambda r: r.seed) if r.status == "ok"} for each in (a, b))
    common = [seed for seed in first if seed in second]
    if not common:
        return Pairing(tuple(first.values()), tuple(second.values()), is_paired=False)
    return Pairing(tuple(first[s] for s in common), tuple(second[s] for s in common), is_paired=True)
