"""What comparing two rows gave, as the run's folder and `pqbench compare` hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pqbench.results.records import Direction

COMPARISON_VERSION = 1
"""Raised when a formula changes so that the same records would give other findings."""

Verdict = Literal["better", "worse", "no evidence"]
OPPOSITE: Mapping[Verdict, Verdict] = {"better": "worse", "worse": "better", "no evidence": "no evidence"}

Randomness = Literal["images", "seeds"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class ComparedRow(_Frozen):
    """One side: a row, by its cells of the seeds that were compared, in the order of the seeds."""

    label: str
    precision: str
    steps: int
    seeds: tuple[int, ...]
    cells: tuple[str, ...]
    value: float
    """The mean over `seeds`."""

    @property
    def title(self) -> str:
        """`pqcad w4a4`."""
        return f"{self.label} {self.precision}"


class Finding(_Frozen):
    """What one test says about a - b.

    over             what the test takes as random: images, or everything that differs between seeds
    low, high        95 % interval of the difference
    ratio            a / b with its 95 % interval, where both are well above zero
    bias             the part of the difference that comes from the number of images alone, to second order
    verdict          on a: better or worse where the interval excludes zero, with the bias and without it
    """

    test: str
    over: Randomness
    difference: float
    low: float
    high: float
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    bias: float = 0.0
    verdict: Verdict

    def flipped(self) -> Finding:
        """The same about b - a."""
        return Finding(
            test=self.test,
            over=self.over,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            ratio=_inverse(self.ratio),
            ratio_low=_inverse(self.ratio_high),
            ratio_high=_inverse(self.ratio_low),
            bias=-self.bias,
            verdict=OPPOSITE[self.verdict],
        )


class Comparison(_Frozen):
    """Two rows by one metric. The first finding is that over images; one between seeds follows from three seeds on."""

    metric: str
    title: str = ""
    """Heading of the metric's column, where the metric says it."""
    direction: Direction
    unit: str
    n: int
    """Images of each seed."""
    a: ComparedRow
    b: ComparedRow
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """On a, by the test over images."""
        return self.findings[0].verdict

    @property
    def is_better(self) -> bool:
        """Whether every test that was made calls a better.

        That over images alone takes the compressed models as they are, and says nothing of the methods: another seed
        may turn it round.
        """
        return all(finding.verdict == "better" for finding in self.findings)

    @property
    def between_seeds(self) -> Finding | None:
        """The finding of the test between seeds, where there is one."""
        return next((finding for finding in self.findings if finding.over == "seeds"), None)

    def flipped(self) -> Comparison:
        """The same with the rows exchanged."""
        findings = tuple(finding.flipped() for finding in self.findings)
        return self.model_copy(update={"a": self.b, "b": self.a, "findings": findings})


class Comparisons(_Frozen):
    """comparisons.json of a run: every pair of rows that may stand in one section of its table."""

    version: int = COMPARISON_VERSION
    comparisons: tuple[Comparison, ...] = ()


class ComparisonIndex:
    """Comparisons by the cells that they are made of, either way round."""

    def __init__(self, comparisons: Iterable[Comparison] = ()) -> None:
        self._known = {(each.a.cells, each.b.cells, each.metric): each for each in comparisons}

    def between(self, a: tuple[str, ...], b: tuple[str, ...], metric: str) -> Comparison | None:
        """The comparison of exactly these cells, `a` first; None where there is none."""
        found = self._known.get((a, b, metric))
        if found is not None:
            return found
        mirrored = self._known.get((b, a, metric))
        return None if mirrored is None else mirrored.flipped()


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1 / value
