"""Latencies that were disturbed while they were measured: which, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pqbench.results.records import Metric
from pqbench.results.rows import Row


def is_noisy(metric: Metric) -> bool:
    """Whether the measuring itself flagged the figure."""
    return bool(metric.detail.get("noisy"))


def disturbance_notes(row: Row, name: str, protocol: str) -> Iterator[str]:
    """A sentence for each noisy figure of the metric `name` that the row's value under `protocol` is made of."""
    for record in row.finished:
        metric = record.metrics.get(name)
        if metric is not None and metric.protocol == protocol and is_noisy(metric):
            yield _sentence(metric)


Figure = tuple[Row, str, str]
"""The value of a row: which row, metric and protocol."""


def ratio_notes(ours: Figure, theirs: Figure) -> Iterator[str]:
    """The same for a ratio, which is as noisy as either of its figures."""
    row, name, protocol = ours
    if row.estimate(name, protocol) is not None and any((*disturbance_notes(*ours), *disturbance_notes(*theirs))):
        yield "Made from a latency that was measured on a busy or unsteady machine."


def _sentence(metric: Metric) -> str:
    work = f"{_others(metric)}{_processes(metric)}"
    if "p95" not in metric.detail:
        return f"Measured on a busy or unsteady machine: {work}."
    p95 = float(metric.detail.get("p95") or 0.0)
    tail = p95 / metric.value if metric.value else 0.0
    return (
        f"Measured on a busy or unsteady machine: {work}, the 95th percentile is {tail:.1f} times the "
        f"median{_drift(metric)}{_waited(metric)}."
    )


def _processes(metric: Metric) -> str:
    """How far the figures of several processes lie apart."""
    values = [float(process["value"]) for process in metric.detail.get("processes") or ()]
    if len(values) < 2 or min(values) <= 0:
        return ""
    return f", its {len(values)} processes differ by {_apart(values):.0f} %"


def _drift(metric: Metric) -> str:
    """How far the medians of the first, the second and the last third of a process's runs lie apart, at most."""
    processes = metric.detail.get("processes") or (metric.detail,)
    each = [[float(median) for median in process.get("thirds") or ()] for process in processes]
    apart = [_apart(thirds) for thirds in each if thirds and min(thirds) > 0]
    return f", medians of thirds of the runs differ by {max(apart):.0f} %" if apart else ""


def _apart(values: Sequence[float]) -> float:
    """Per cent of the smallest that the largest lies above it."""
    return 100 * (max(values) / min(values) - 1)


def _others(metric: Metric) -> str:
    """What others did meanwhile."""
    share, cores = float(metric.detail.get("other_work") or 0.0), float(metric.detail.get("other_cores") or 0.0)
    work = f"other work took {100 * share:.0f} % of it"
    work += f" ({cores:.1f} cores)" if cores else ""
    processes = metric.detail.get("other_processes")
    return f"{work}, on its graphics card were {', '.join(processes)}" if processes else work


def _waited(metric: Metric) -> str:
    waited = float(metric.detail.get("waited") or 0.0)
    return f"; it was not quiet in {waited:.0f} s of waiting" if waited else ""
