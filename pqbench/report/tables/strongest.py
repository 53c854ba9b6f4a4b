"""The fastest full-precision line that was timed: what a speed-up must stand up to, whatever engine it is on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pqbench.results.estimates import Estimate
from pqbench.results.hashing import canonical
from pqbench.results.names import LATENCY, latency_place
from pqbench.results.rows import Group, Row


@dataclass(frozen=True)
class Line:
    """A latency of the full-precision row.

    name       of the metric
    protocol   under which it was measured
    """

    name: str
    protocol: str
    latency: Estimate

    @property
    def engine(self) -> str:
        """What ran it."""
        return latency_place(self.name)[0]

    @property
    def batch(self) -> int:
        """Images at once."""
        return latency_place(self.name)[1]


def full_precision_lines(group: Group) -> list[Line]:
    """All of them, in the order of the record."""
    reference = group.reference
    if reference is None:
        return []
    return [
        Line(name, protocol, latency)
        for name, protocol in dict.fromkeys(_measured(reference))
        if (latency := reference.estimate(name, protocol)) is not None
    ]


def strongest_line(group: Group, name: str, protocol: str) -> Line | None:
    """The fastest full-precision line beside a latency: of the same batch, machine, device and threads."""
    wanted = _circumstances(group, name, protocol)
    lines = [
        line
        for line in full_precision_lines(group)
        if line.batch == latency_place(name)[1] and _circumstances(group, line.name, line.protocol) == wanted
    ]
    return min(lines, key=lambda line: line.latency.value, default=None)


def _measured(row: Row) -> Iterator[tuple[str, str]]:
    for record in row.finished:
        for name, metric in record.metrics.items():
            if name.startswith(LATENCY):
                yield name, metric.protocol


def _circumstances(group: Group, name: str, protocol: str) -> str:
    """Everything that a protocol of latency fixes but the engine and its kernels."""
    for record in group.records:
        metric = record.metrics.get(name)
        if metric is not None and metric.protocol == protocol:
            facts: dict[str, Any] = metric.detail.get("protocol", {})
            return canonical({fact: value for fact, value in facts.items() if fact not in ("engine", "kernels")})
    return canonical({})
