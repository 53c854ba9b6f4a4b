"""From what a cell left to the values of its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pqbench.bench.records import Metric
from pqbench.contracts.metric import ImageMetric, MetricInputs, Need, Score, ScoringRules
from pqbench.errors import UserError
from pqbench.evaluation.protocol import ScoreProtocol, metric_protocol
from pqbench.methods.composition import Part

Sources = Mapping[Need, Callable[[], Any]]
"""How to read what metrics are computed from. "reference" stands for all that a reference holds."""

PAIRED: frozenset[Need] = frozenset({"fp_images", "fp_features"})
"""What the full-precision model's own cell has no partner for."""


def score(metrics: Sequence[Part[ImageMetric]], sources: Sources, protocol: ScoreProtocol) -> dict[str, Metric]:
    """The values of all metrics whose needs `sources` has, by name, in their order.

    Raises `UserError` when a metric gives something else than a finite number.
    """
    found = {}
    for part in metrics:
        metric = part.component
        if computable(metric, sources):
            given = inputs_of(metric, protocol.rules, sources)
            found[metric.name] = _measured(part, metric.compute(given), protocol)
    return found


def inputs_of(metric: ImageMetric, rules: ScoringRules, sources: Sources) -> MetricInputs:
    """What the metric asked for and nothing else."""
    return MetricInputs(rules, {need: sources[need] for need in _sources_needed(metric)})


def computable(metric: ImageMetric, sources: Iterable[Need]) -> bool:
    """Whether everything that it needs is there."""
    return _sources_needed(metric) <= set(sources)


def _sources_needed(metric: ImageMetric) -> set[Need]:
    named: dict[Need, Need] = {"reference_features": "reference", "reference_spatial": "reference"}
    return {named.get(need, need) for need in metric.needs}


def _measured(part: Part[ImageMetric], found: Score, protocol: ScoreProtocol) -> Metric:
    metric, (identity, facts) = part.component, metric_protocol(part, protocol)
    if not math.isfinite(found.value):
        raise UserError(f"The metric {metric.name} gave {found.value}, which is no value for a table.")
    detail = dict(found.detail)
    if facts is not None:
        detail["protocol"] = facts
    if found.notes:
        detail["notes"] = list(found.notes)
    return Metric(
        value=found.value,
        low=found.low,
        high=found.high,
        unit=metric.unit,
        direction=metric.direction,
        n=protocol.n,
        protocol=identity,
        title=metric.title.format(distance=protocol.distance),
        detail=detail,
    )
