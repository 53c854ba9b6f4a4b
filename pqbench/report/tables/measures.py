"""Which columns of numbers a group of rows has, and how each is read from its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pqbench.report.tables.disturbed import disturbance_notes, ratio_notes
from pqbench.report.tables.strongest import Line, strongest_line
from pqbench.report.tables.table import Column
from pqbench.results.estimates import Estimate
from pqbench.results.names import ENERGY, LATENCY, latency_heading, latency_place
from pqbench.results.records import Audit, Record
from pqbench.results.rows import Group, Row, quality_names

MEGABYTE = 1e-6
IDENTICAL_DB = 100.0
"""The cap of `pqbench.scoring.formulas.paired`: a mean that reaches it comes from images without any difference."""


def _silent(row: Row) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Measure:
    """A column of numbers.

    is_exact         counted rather than measured, so that it needs no interval to be compared
    shows_interval   whether there is room for the interval in the cell's text
    noise            what makes a row's value doubtful; a value with such notes is marked and never the best
    remarks          what else must be known of a row's value
    words            values that have a word of their own
    """

    column: Column
    read: Callable[[Row], Estimate | None]
    is_exact: bool = False
    shows_interval: bool = False
    noise: Callable[[Row], Iterable[str]] = _silent
    remarks: Callable[[Row], Iterable[str]] = _silent
    words: Mapping[float, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The column's key without the protocol that tells it from another of its kind."""
        return self.column.key.partition("#")[0]


def measures(group: Group, distance: str) -> tuple[Measure, ...]:
    """The columns of a group, in order; only what some row has. `distance` is what the Frechet distance is called."""
    return (
        *_seeds(group),
        *_qualities(group, distance),
        *_latencies(group),
        *_energies(group),
        *_sizes(group),
        *_metric(
            group, "peak_memory_bytes", Column("peak_memory_bytes", "Peak memory", "MB", direction="lower"), MEGABYTE
        ),
        *_audit(group),
        *_cost(group),
    )


def _qualities(group: Group, distance: str) -> Iterator[Measure]:
    """The metrics of the images, as they name themselves; records from before they did have fd, kid and psnr_to_fp."""
    older = {"fd": (distance, ""), "kid": ("KID", ""), "psnr_to_fp": ("PSNR to FP", "dB")}
    for name in quality_names(group.records):
        found = [record.metrics[name] for row in group.rows for record in row.finished if name in record.metrics]
        if not found:
            continue
        title, unit = (found[-1].title, found[-1].unit) if found[-1].title else older[name]
        factor = 1.0
        if name == "kid" and max(abs(metric.value) for metric in found) < 1:
            unit, factor = "×10⁻³", 1e3  # as papers print it
        for measure in _metric(group, name, Column(name, title, unit, direction=found[-1].direction), factor):
            yield replace(
                measure,
                shows_interval=name in ("fd", "fd_infinity"),
                words={IDENTICAL_DB: "identical"} if name == "psnr_to_fp" else {},
            )


def _metric(group: Group, name: str, column: Column, factor: float = 1.0, is_exact: bool = False) -> Iterator[Measure]:
    """A column for each protocol under which the metric was measured: values of two protocols never share one."""
    protocols = _protocols(group, name)
    for protocol in protocols:
        only = column if len(protocols) == 1 else _told_apart(column, protocol)

        def noise(row: Row, protocol: str = protocol) -> Iterable[str]:
            return disturbance_notes(row, name, protocol)

        def remarks(row: Row, protocol: str = protocol) -> Iterable[str]:
            return _remarks(row, name, protocol)

        yield Measure(only, _reader(name, protocol, factor, column), is_exact, noise=noise, remarks=remarks)


def _remarks(row: Row, name: str, protocol: str) -> Iterator[str]:
    """The notes that a metric left with its value."""
    for record in row.finished:
        metric = record.metrics.get(name)
        if metric is not None and metric.protocol == protocol:
            yield from metric.detail.get("notes", ())


def _reader(name: str, protocol: str, factor: float, column: Column) -> Callable[[Row], Estimate | None]:
    def read(row: Row) -> Estimate | None:
        estimate = row.estimate(name, protocol)
        return None if estimate is None else replace(estimate.scaled(factor), direction=column.direction)

    return read


def _protocols(group: Group, name: str) -> tuple[str, ...]:
    found = (r.metrics[name].protocol for row in group.rows for r in row.finished if name in r.metrics)
    return tuple(dict.fromkeys(found))


def _told_apart(column: Column, protocol: str) -> Column:
    return replace(column, key=f"{column.key}#{protocol}", title=f"{column.title} under {protocol}")


def _seeds(group: Group) -> Iterator[Measure]:
    if any(len(row.records) > 1 for row in group.rows):
        yield Measure(Column("seeds", "Seeds"), lambda row: Estimate(len(row.finished)))


def _latencies(group: Group) -> Iterator[Measure]:
    for name in _latency_names(group):
        heading = latency_heading(name)
        column = Column(name, "latency", "ms/image", heading, direction="lower")
        yield from _metric(group, name, column)
        yield from _speed_up(group, name, heading)
        yield from _against_strongest(group, name, heading)


def _latency_names(group: Group) -> list[str]:
    """Latencies that some row has: the engines that run the compressed methods first, and small batches first."""
    count: dict[str, int] = {}
    for row in group.rows:
        for name in dict.fromkeys(n for r in row.finished for n in r.metrics if n.startswith(LATENCY)):
            count[name] = count.get(name, 0) + 1
    most: dict[str, int] = {}
    for name, rows in count.items():
        engine = latency_place(name)[0]
        most[engine] = max(rows, most.get(engine, 0))

    def order(name: str) -> tuple[int, str, int]:
        engine, batch = latency_place(name)
        return -most[engine], engine, batch

    return sorted(count, key=order)


def _speed_up(group: Group, name: str, heading: str) -> Iterator[Measure]:
    """Against the full-precision row on the same engine, where a compressed method ran there at all."""
    reference = group.reference
    if reference is None or reference.estimate(name) is None:
        return
    if all(row is reference or row.estimate(name) is None for row in group.rows):
        return
    column = Column(f"speed_up@{name.partition('@')[2]}", "speed-up", "×", heading, direction="higher")
    yield from _ratio(group, reference, name, column)


def _against_strongest(group: Group, name: str, heading: str) -> Iterator[Measure]:
    """Against the fastest full-precision line that was timed, where that is on another engine."""
    reference = group.reference
    if reference is None or all(row is reference or row.estimate(name) is None for row in group.rows):
        return
    protocols = _protocols(group, name)
    column = Column(f"vs_strongest_fp@{name.partition('@')[2]}", "vs strongest FP", "×", heading, direction="higher")
    for protocol in protocols:
        line = strongest_line(group, name, protocol)
        if line is None or line.engine == latency_place(name)[0]:
            continue

        def read(row: Row, protocol: str = protocol, line: Line = line) -> Estimate | None:
            ours = row.estimate(name, protocol)
            return ours.ratio_of(line.latency) if ours else None

        def noise(row: Row, protocol: str = protocol, line: Line = line) -> Iterable[str]:
            ours, theirs = (row, name, protocol), (reference, line.name, line.protocol)
            return ratio_notes(ours, theirs)

        told = column if len(protocols) == 1 else _told_apart(column, protocol)
        yield Measure(told, read, noise=noise)


def _energies(group: Group) -> Iterator[Measure]:
    """Only where the machine has counters that this user may read."""
    for name in dict.fromkeys(n for row in group.rows for r in row.finished for n in r.metrics if n.startswith(ENERGY)):
        column = Column(name, "Energy", "J/image", latency_heading(name), direction="lower")
        yield from _metric(group, name, column)


def _sizes(group: Group) -> Iterator[Measure]:
    name = "stored_bytes"
    yield from _metric(group, name, Column(name, "Size", "MB", direction="lower"), MEGABYTE, is_exact=True)
    reference = group.reference
    if reference is not None and reference.estimate(name) is not None:
        column = Column("size_ratio", "Compression", "×", direction="higher")
        yield from _ratio(group, reference, name, column, is_exact=True)


def _ratio(group: Group, reference: Row, name: str, column: Column, is_exact: bool = False) -> Iterator[Measure]:
    protocols = _protocols(group, name)
    for protocol in protocols:

        def read(row: Row, protocol: str = protocol) -> Estimate | None:
            ours, theirs = row.estimate(name, protocol), reference.estimate(name, protocol)
            return ours.ratio_of(theirs) if ours and theirs else None

        def noise(row: Row, protocol: str = protocol) -> Iterable[str]:
            return ratio_notes((row, name, protocol), (reference, name, protocol))

        told = column if len(protocols) == 1 else _told_apart(column, protocol)
        yield Measure(told, read, is_exact, noise=noise)


def _audit(group: Group) -> Iterator[Measure]:
    readings: Mapping[str, tuple[Column, Callable[[Audit], float]]] = {
        "w": (Column("avg_weight_bits", "weights", group="average bits"), lambda a: a.average_weight_bits),
        "a": (Column("avg_act_bits", "activations", group="average bits"), lambda a: a.average_activation_bits),
        "sets": (Column("act_parameter_sets", "Act. sets"), lambda a: float(a.activation_parameter_sets)),
    }
    if not any(record.audit for record in group.records):
        return
    for column, value in readings.values():

        def read(row: Row, value: Callable[[Audit], float] = value) -> Estimate | None:
            audits = [record.audit for record in row.finished if record.audit is not None]
            return Estimate(sum(map(value, audits)) / len(audits)) if audits else None

        yield Measure(column, read)


def _cost(group: Group) -> Iterator[Measure]:
    def seconds(record: Record) -> float:
        return record.metrics["cost_seconds"].value if "cost_seconds" in record.metrics else 0.0

    is_long = max(map(seconds, group.records), default=0.0) >= 600
    unit, factor = ("min", 1 / 60) if is_long else ("s", 1.0)
    yield from _metric(group, "cost_seconds", Column("cost_seconds", "Cost", unit, direction="lower"), factor)
    memory = Column("cost_peak_memory_bytes", "Cost memory", "MB", direction="lower")
    yield from _metric(group, "cost_peak_memory_bytes", memory, MEGABYTE)
