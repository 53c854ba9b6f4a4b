"""From what a cell left to the values of its metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.metric import ImageMetric, MetricInputs, Need, Score, ScoringRules
from pqbench.methods.composition import Part
from pqbench.results.records import Metric
from pqbench.scoring.protocol import ScoreProtocol, metric_protocol
from pqbench.scoring.weights.store import FoundWeights

Sources = Mapping[Need, Callable[[], Any]]
"""How to read what metrics are computed from. "reference" stands for all that a reference holds."""

PAIRED: frozenset[Need] = frozenset({"fp_images", "fp_features"})
"""What the full-precision model's own cell has no partner for."""


@dataclass(frozen=True)
class Grounds:
    """What some metrics stand on beside the images and the protocol.

    weights          files of weights, by the names of the metrics
    prompts_sha256   of the prompts of all images; empty where none are used
    partners         facts on the full-precision model's images; none where they are a run's, whose protocol has them
    device           where nets of metrics run
    """

    weights: Mapping[str, FoundWeights] = field(default_factory=dict)
    prompts_sha256: str = ""
    partners: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"

    def facts(self, metric: ImageMetric) -> dict[str, str]:
        """Of these, what decides the value of a metric."""
        facts = {}
        if metric.name in self.weights:
            facts["weights_sha256"] = self.weights[metric.name].sha256
        if "prompts" in metric.needs:
            facts["prompts_sha256"] = self.prompts_sha256
        if PAIRED & set(metric.needs):
            facts |= self.partners
        return facts


@dataclass(frozen=True)
class Scored:
    """A metric's value; `each` image's, where the value is their mean: (N,) float64."""

    metric: Metric
    each: Tensor | None = None


def score(
    metrics: Sequence[Part[ImageMetric]], sources: Sources, protocol: ScoreProtocol, grounds: Grounds | None = None
) -> dict[str, Metric]:
    """The values of all metrics whose needs `sources` has. Raises `UserError` as `scored` does."""
    return {name: each.metric for name, each in scored(metrics, sources, protocol, grounds).items()}


def scored(
    metrics: Sequence[Part[ImageMetric]], sources: Sources, protocol: ScoreProtocol, grounds: Grounds | None = None
) -> dict[str, Scored]:
    """What was found by all metrics whose needs `sources` has, by name, in their order.

    Raises `UserError` when a metric gives something else than a finite number.
    """
    found, grounds = {}, grounds or Grounds()
    for part in metrics:
        metric = part.component
        if computable(metric, sources):
            its = metric.compute(inputs_of(metric, protocol.rules, sources, grounds))
            found[metric.name] = Scored(_measured(part, its, protocol, grounds), its.each)
    return found


def inputs_of(
    metric: ImageMetric, rules: ScoringRules, sources: Sources, grounds: Grounds | None = None
) -> MetricInputs:
    """What the metric asked for and nothing else."""
    grounds = grounds or Grounds()
    weights = grounds.weights.get(metric.name)
    return MetricInputs(
        rules,
        {need: sources[need] for need in _sources_needed(metric)},
        weights=weights.path if weights else None,
        device=grounds.device,
    )


def computable(metric: ImageMetric, sources: Iterable[Need]) -> bool:
    """Whether everything that it needs is there."""
    return _sources_needed(metric) <= set(sources)


def _sources_needed(metric: ImageMetric) -> set[Need]:
    named: dict[Need, Need] = {"reference_features": "reference", "reference_spatial": "reference"}
    return {named.get(need, need) for need in metric.needs}


def _measured(part: Part[ImageMetric], found: Score, protocol: ScoreProtocol, grounds: Grounds) -> Metric:
    metric = part.component
    identity, facts = metric_protocol(part, protocol, grounds.facts(metric))
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
