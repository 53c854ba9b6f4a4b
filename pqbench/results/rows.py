"""From records to rows: cells that differ in their seed alone are one row; rows that may be compared are one group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pqbench.contracts.precision import Precision
from pqbench.results.estimates import Estimate, over_seeds
from pqbench.results.names import ENERGY, PARITY
from pqbench.results.records import CHANGING, Manifest, Metric, Record

QUALITY = ("fd", "kid", "psnr_to_fp")
"""Metrics of the images, most telling first; the protocol of the first that is there decides a record's section."""

TIMED = ("latency_ms_per_", ENERGY, "peak_memory_bytes", PARITY)
"""How the names begin of what the timing of a model leaves."""


def quality_names(records: Iterable[Record]) -> tuple[str, ...]:
    """All metrics of images that some record has: those of `QUALITY` first, then in the order of the records."""
    titled = (name for record in records for name, metric in record.metrics.items() if metric.title)
    return tuple(dict.fromkeys((*QUALITY, *titled)))


@dataclass(frozen=True)
class Row:
    """One method at one precision and step count, over all its seeds."""

    records: tuple[Record, ...]

    @property
    def label(self) -> str:
        """The method as the user wrote it, `pqcad[a=8]`."""
        return self.records[0].label

    @property
    def precision(self) -> Precision:
        """The stated precision."""
        return Precision.parse(self.records[0].precision)

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return self.records[0].steps

    @cached_property
    def finished(self) -> tuple[Record, ...]:
        """The records of cells that have results."""
        return tuple(record for record in self.records if record.status == "ok")

    @property
    def is_reference(self) -> bool:
        """Whether this is the full-precision model itself: nothing quantized, distilled or corrected."""
        changed = any(self.records[0].components.get(kind, {}).get("name") for kind in CHANGING)
        return not self.precision.quantizes and not changed

    def estimate(self, metric: str, protocol: str | None = None) -> Estimate | None:
        """The metric over the seeds that have it under `protocol` (None: any), or None where none has."""
        found = self.measurements(metric, protocol)
        return over_seeds(found) if found else None

    def measurements(self, metric: str, protocol: str | None = None) -> list[Metric]:
        """The metric of each seed that has it; once where one timing is that of several seeds.

        Full precision is the same model for every seed, and is timed once: taken for k measurements that agree, it
        would pass for exact.
        """
        found: dict[tuple[str, str], Metric] = {}
        for record in self.finished:
            its = record.metrics.get(metric)
            if its is not None and protocol in (None, its.protocol):
                found.setdefault((_origin(record, metric), its.model_dump_json()), its)
        return list(found.values())


@dataclass(frozen=True)
class Group:
    """Rows of one workload, one budget and one protocol of quality; the full-precision row comes first."""

    workload: str
    budget: str
    protocol: str
    rows: tuple[Row, ...]

    @property
    def reference(self) -> Row | None:
        """The full-precision row, where there is one."""
        return next((row for row in self.rows if row.is_reference), None)

    @property
    def records(self) -> tuple[Record, ...]:
        """All records of the group."""
        return tuple(record for row in self.rows for record in row.records)


def grouped(records: Iterable[Record], manifest: Manifest) -> tuple[Group, ...]:
    """Split records into groups whose values may stand in one column.

    A cell without results has no protocol; it joins the first group of its workload and budget.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    homeless: list[Record] = []
    for record in records:
        protocol = quality_protocol(record)
        if protocol:
            groups.setdefault((record.workload, record.budget, protocol), []).append(record)
        else:
            homeless.append(record)
    for record in homeless:
        key = (record.workload, record.budget)
        home = next((known for known in groups if known[:2] == key), (*key, ""))
        groups.setdefault(home, []).append(record)
    return tuple(Group(*key, rows=_rows(members, manifest)) for key, members in groups.items())


def quality_protocol(record: Record) -> str:
    """The protocol that judged the record's images; empty where none did."""
    return next((record.metrics[name].protocol for name in QUALITY if name in record.metrics), "")


def _origin(record: Record, metric: str) -> str:
    """The key of what measured it: of the timing, which seeds may share, else of the cell."""
    if metric.startswith(TIMED):
        return next((run.key for run in record.stages if run.stage == "time"), record.cell)
    return record.cell


def _rows(records: Sequence[Record], manifest: Manifest) -> tuple[Row, ...]:
    """Rows in the order in which the user named the methods, full precision first."""
    cells: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        cells.setdefault((record.label, record.precision, record.steps), []).append(record)
    rows = [Row(tuple(sorted(members, key=lambda r: r.seed))) for members in cells.values()]
    asked = {label: position for position, label in enumerate(manifest.methods)}
    return tuple(sorted(rows, key=lambda row: (not row.is_reference, asked.get(row.label, len(asked)))))
