"""From the metrics of several seeds to one number with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from pqbench.results.records import Direction, Metric

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """One number for one row: the mean over `seeds` cells, with a 95 % interval where there is one."""

    value: float
    direction: Direction = "none"
    low: float | None = None
    high: float | None = None
    seeds: int = 1

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit; `factor` > 0."""
        return replace(self, value=self.value * factor, low=_times(self.low, factor), high=_times(self.high, factor))

    def ratio_of(self, reference: Estimate) -> Estimate:
        """How many times smaller it is than `reference` (speed-up, compression): more is better."""
        bounds = None not in (self.low, self.high, reference.low, reference.high)
        return Estimate(
            value=_quotient(reference.value, self.value),
            direction="higher",
            low=_quotient(reference.low, self.high) if bounds else None,
            high=_quotient(reference.high, self.low) if bounds else None,
            seeds=self.seeds,
        )

    def surely_better_than(self, other: Estimate, exact: bool = False) -> bool:
        """Whether it is better and the intervals do not overlap; `exact` numbers (a file's size) need no interval."""
        if exact:
            return self.value < other.value if self.direction == "lower" else self.value > other.value
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        return self.high < other.low if self.direction == "lower" else self.low > other.high


def over_seeds(metrics: Sequence[Metric]) -> Estimate:
    """One cell's metric as it is; over cells that differ in their seed alone, the mean with Student's t interval.

    Each seed has images from noise of its own, so the spread between k seeds holds everything that is random.
    """
    values = [metric.value for metric in metrics]
    first, k = metrics[0], len(metrics)
    if k == 1:
        return Estimate(first.value, first.direction, first.low, first.high)
    mean = fmean(values)
    if not all(map(math.isfinite, values)):
        return Estimate(mean, first.direction, seeds=k)
    half = _student_t(k - 1) * stdev(values) / math.sqrt(k)
    return Estimate(mean, first.direction, mean - half, mean + half, seeds=k)


def _student_t(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _quotient(above: float | None, below: float | None) -> float:
    if above is None or not below:
        return math.nan
    return above / below
