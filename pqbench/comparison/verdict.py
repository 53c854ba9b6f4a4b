"""The tests between two rows, from what each image contributes to their metrics.

**Over images.** All rows start image i of a seed from the same noise, so the differences of influences, image by
image, give the standard error of the difference (`pqbench.scoring.formulas.influence`); seeds have noise of their own
and add up. Measured where the truth is known: on samples of Gaussians (64 dimensions, 1,024 images, rows that correlate
by 0.9) the 95 % interval holds the expected difference in 93 to 97 % of trials, on images drawn again from the kept
features of real runs in 95 %. A bootstrap of pairs that is centred on the estimate does as well (94 to 96 %), with
random numbers and hundreds of resamples; percentile intervals of that bootstrap hold it in 72 % where the rows'
variances differ, since a resample with its copies carries the distance's bias a second time. With two images a
dimension all of these are too wide rather than too narrow. An unpaired interval is 1.3 to 3 times as wide.

**Bias.** The distance of n images lies above that of infinitely many, by more for the row with more variance (Chong
and Forsyth, 2020). The interval is about the difference at this n, which the table shows; the verdict of either test
must also hold once the difference in bias is taken off.

**Between seeds.** The test over images takes the compressed models as they are. The seed also decides calibration and
training, so the spread of the differences between at least three seeds holds the method's own randomness too:
Student's t.

**Arithmetic.** Neither interval is narrower than what rounding does to the values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch

from pqbench.contracts.metric import Contribution
from pqbench.results.comparisons import Finding, Verdict
from pqbench.results.records import Direction

CONFIDENCE = 0.95
RESOLUTION = 1e-4
"""Share of a value below which a difference is arithmetic."""
FEWEST_SEEDS = 3
"""For a test between seeds."""


@dataclass(frozen=True)
class _Moments:
    """Variances of the two rows' means over seeds, and their covariance."""

    a: float
    b: float
    both: float

    @property
    def difference(self) -> float:
        """Variance of a - b."""
        return max(0.0, self.a + self.b - 2 * self.both)

    def log_ratio(self, a: float, b: float) -> float:
        """Variance of log a / b, for values a and b."""
        return max(0.0, self.a / a**2 + self.b / b**2 - 2 * self.both / (a * b))


def over_images(
    a: Sequence[Contribution], b: Sequence[Contribution], seeds: str, direction: Direction, is_paired: bool
) -> Finding:
    """The test over images of two rows, one contribution a seed.

    a, b        where `is_paired`, of the same seeds in the same order, with image i of both from the same noise
    seeds       what they are, for the test's name
    direction   which way the metric is better

    Raises ValueError when pairs have different numbers of images.
    """
    moments = _moments(a, b, is_paired)
    first, second = _value(a), _value(b)
    images = {len(each.images) for each in (*a, *b)}
    degrees = sum(len(each.images) for each in a) - len(a)
    if not is_paired:
        degrees = min(degrees, sum(len(each.images) for each in b) - len(b))
    reach = _student_t(degrees)
    half = max(reach * math.sqrt(moments.difference), _resolution(first, second))
    difference, bias = first - second, _bias(a) - _bias(b)
    kind = "paired" if is_paired else "unpaired"
    return Finding(
        test=f"{kind} delta method over images, {' and '.join(f'{n:,}' for n in sorted(images))} a seed, {seeds}",
        over="images",
        difference=difference,
        low=difference - half,
        high=difference + half,
        **(_ratio(first, second, moments, reach) if direction == "lower" else {}),
        bias=bias,
        verdict=_both(_verdict(difference, half, direction), _verdict(difference - bias, half, direction)),
    )


def between_seeds(a: Sequence[Contribution], b: Sequence[Contribution], seeds: str, direction: Direction) -> Finding:
    """Student's t test of the differences, seed by seed, of a metric's values of two rows, one contribution a seed.

    Raises ValueError for fewer than `FEWEST_SEEDS`.
    """
    differences = [ours.value - theirs.value for ours, theirs in zip(a, b, strict=True)]
    k = len(differences)
    if k < FEWEST_SEEDS:
        raise ValueError(f"A test between seeds needs {FEWEST_SEEDS} of them; there are {k}.")
    difference, bias = fmean(differences), _bias(a) - _bias(b)
    half = max(_student_t(k - 1) * stdev(differences) / math.sqrt(k), _resolution(_value(a), _value(b)))
    return Finding(
        test=f"Student's t of the differences between seeds, {k - 1} degrees of freedom, {seeds}",
        over="seeds",
        difference=difference,
        low=difference - half,
        high=difference + half,
        bias=bias,
        verdict=_both(_verdict(difference, half, direction), _verdict(difference - bias, half, direction)),
    )


def _moments(a: Sequence[Contribution], b: Sequence[Contribution], is_paired: bool) -> _Moments:
    shared = sum(_covariance(x, y) for x, y in zip(a, b, strict=True)) / len(a) ** 2 if is_paired else 0.0
    return _Moments(
        a=sum(_covariance(each, each) for each in a) / len(a) ** 2 + _reference_covariance(a, a),
        b=sum(_covariance(each, each) for each in b) / len(b) ** 2 + _reference_covariance(b, b),
        both=shared + _reference_covariance(a, b),
    )


def _covariance(x: Contribution, y: Contribution) -> float:
    """Of two metrics over the same images."""
    if x.images.shape != y.images.shape:
        raise ValueError(f"Pairs need the same number of images: {len(x.images)} and {len(y.images)}.")
    return x.image_scale * float(x.images @ y.images) / (len(x.images) - 1)


def _reference_covariance(a: Sequence[Contribution], b: Sequence[Contribution]) -> float:
    """Of two means over seeds, from subsets of the reference: the same ones for every seed and row."""
    parts = [[each.reference for each in row if each.reference is not None] for row in (a, b)]
    if not all(parts):
        return 0.0
    x, y = (torch.stack(part).mean(0) for part in parts)
    return a[0].reference_scale * float(x @ y) / (len(x) - 1)


def _ratio(a: float, b: float, moments: _Moments, reach: float) -> dict[str, float]:
    """a / b of two distances (that of decibels would mean nothing), with an interval symmetric on a logarithmic scale.

    Nothing where one of them may as well be zero.
    """
    if a <= reach * math.sqrt(moments.a) or b <= reach * math.sqrt(moments.b):
        return {}
    factor = math.exp(reach * math.sqrt(moments.log_ratio(a, b)))
    return {"ratio": a / b, "ratio_low": a / b / factor, "ratio_high": a / b * factor}


def _verdict(difference: float, half: float, direction: Direction) -> Verdict:
    if direction == "none" or abs(difference) <= half:
        return "no evidence"
    return "better" if (difference < 0) == (direction == "lower") else "worse"


def _both(first: Verdict, second: Verdict) -> Verdict:
    return first if first == second else "no evidence"


def _resolution(a: float, b: float) -> float:
    """The same images twice differ by how float32 features and eigenvalues were rounded."""
    return RESOLUTION * max(abs(a), abs(b))


def _bias(row: Sequence[Contribution]) -> float:
    return fmean(each.bias for each in row)


def _value(row: Sequence[Contribution]) -> float:
    return fmean(each.value for each in row)


def _student_t(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
