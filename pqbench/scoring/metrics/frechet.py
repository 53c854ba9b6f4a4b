"""Frechet distances: to the real images, of spatial features, and to the full-precision model's own samples."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from torch import Tensor

from pqbench.contracts.metric import Contribution, ImageMetric, MetricInputs, Need, Score, ScoringRules
from pqbench.scoring.formulas.bootstrap import WIDEST, Interval, frechet_replicates, pivot_interval
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance
from pqbench.scoring.formulas.influence import delta_interval, frechet_contribution, frechet_with_influences

HEUSEL = (
    "@inproceedings{heusel2017gans, title={GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash "
    "Equilibrium}, author={Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and "
    "Hochreiter, Sepp}, booktitle={NeurIPS}, year={2017}}"
)


class FrechetDistance(ImageMetric):
    """Frechet distance of the features' Gaussian to that of the real images (Heusel et al., 2017, eq. 6)."""

    name: ClassVar[str] = "fd"
    summary: ClassVar[str] = "Frechet distance to the real images; FID under the Inception of Heusel et al."
    references: ClassVar[tuple[str, ...]] = (HEUSEL,)
    title: ClassVar[str] = "{distance}"
    direction: ClassVar[Literal["lower", "higher"]] = "lower"
    needs: ClassVar[tuple[Need, ...]] = ("features", "reference")

    def compute(self, given: MetricInputs) -> Score:
        """The distance with its interval over images."""
        reference = given.reference
        found = frechet_score(given.features, reference.mean, reference.covariance, given.rules)
        return with_notes(found, few_references(reference.n, len(reference.mean)))

    def contribution(self, value: float, given: MetricInputs) -> Contribution:
        """The influence of each image."""
        return frechet_contribution(value, given.features, given.reference.mean, given.reference.covariance)


class SpatialFrechetDistance(ImageMetric):
    """Frechet distance of spatial features, which see where things are (Nash et al., 2021, section 4.2: sFID)."""

    name: ClassVar[str] = "sfid"
    summary: ClassVar[str] = "Frechet distance of spatial features (sFID)"
    references: ClassVar[tuple[str, ...]] = (
        "@inproceedings{nash2021generating, title={Generating Images with Sparse Representations}, author={Nash, "
        "Charlie and Menick, Jacob and Dieleman, Sander and Battaglia, Peter}, booktitle={ICML}, year={2021}}",
    )
    title: ClassVar[str] = "s{distance}"
    direction: ClassVar[Literal["lower", "higher"]] = "lower"
    needs: ClassVar[tuple[Need, ...]] = ("spatial", "reference_spatial")

    def compute(self, given: MetricInputs) -> Score:
        """The distance with its interval over images."""
        found = frechet_score(given.spatial, *_spatial(given), given.rules)
        return with_notes(found, few_references(given.reference.n, given.spatial.shape[1]))

    def contribution(self, value: float, given: MetricInputs) -> Contribution:
        """The influence of each image."""
        return frechet_contribution(value, given.spatial, *_spatial(given))


class FrechetToFp(ImageMetric):
    """Frechet distance to the samples that the full-precision model made from the same noise.

    A compressed model can come nearer to the real images than the one that it was made from, while its pictures get
    worse; it cannot come nearer to the full-precision model than 0.
    """

    name: ClassVar[str] = "fd_to_fp"
    summary: ClassVar[str] = "Frechet distance to the full-precision model's own samples"
    references: ClassVar[tuple[str, ...]] = (HEUSEL,)
    title: ClassVar[str] = "{distance} to FP"
    direction: ClassVar[Literal["lower", "higher"]] = "lower"
    needs: ClassVar[tuple[Need, ...]] = ("features", "fp_features")

    def compute(self, given: MetricInputs) -> Score:
        """The distance with its interval over images, those of the full-precision model taken as they are."""
        own = FeatureStatistics.of(given.fp_features)
        return frechet_score(given.features, own.mean, own.covariance, given.rules)

    def contribution(self, value: float, given: MetricInputs) -> Contribution:
        """The influence of each image, those of the full-precision model taken as they are."""
        own = FeatureStatistics.of(given.fp_features)
        return frechet_contribution(value, given.features, own.mean, own.covariance)


def frechet_score(features: Tensor, mean: Tensor, covariance: Tensor, rules: ScoringRules) -> Score:
    """The distance of features (N, D) to a Gaussian; a note where there are fewer images than features.

    The interval is a bootstrap's up to `WIDEST` features, and beyond from the influence of each image.
    """
    if features.shape[1] <= WIDEST:
        own = FeatureStatistics.of(features)
        value = frechet_distance(own.mean, own.covariance, mean, covariance)
        interval = pivot_interval(value, frechet_replicates(features, mean, covariance, rules.resamples, rules.seed))
    else:
        found = frechet_with_influences(features, mean, covariance)
        value, interval = found.value, delta_interval(found)
    low, high = Interval(max(0.0, interval.low), interval.high)
    detail = {"distance": f"{rules.distance} ({rules.extractor})"}
    return Score(value, low, high, detail, few_images(*features.shape))


def few_images(n: int, width: int) -> tuple[str, ...]:
    """A note where n images cannot fill a covariance of `width` features."""
    if n > width:
        return ()
    return (
        f"A Frechet distance of {n:,} images with {width:,} features: with so few it is biased upwards by a large and "
        f"model-dependent amount, and can only be held against others of {n:,} images.",
    )


def few_references(n: int, width: int) -> tuple[str, ...]:
    """A note where n real images cannot fill a covariance of `width` features; n is 0 where nobody knows it."""
    if n == 0 or n > width:
        return ()
    return (
        f"A reference of {n:,} images with {width:,} features: with so few the distance is biased upwards by a large "
        "amount, however many images are scored, and can only be held against others to the same reference.",
    )


def with_notes(score: Score, notes: tuple[str, ...]) -> Score:
    """The score with more notes."""
    return replace(score, notes=(*score.notes, *notes))


def _spatial(given: MetricInputs) -> tuple[Tensor, Tensor]:
    statistics = given.reference.spatial
    if statistics is None:
        raise LookupError("The reference has no statistics of spatial features.")
    return statistics
