"""Improved precision and recall: how many images look real, and how much of the real ones is covered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal

from torch import Tensor

from pqbench.contracts.metric import Contribution, ImageMetric, MetricInputs, Need, Score, Setting
from pqbench.contracts.parameters import parameter
from pqbench.scoring.formulas.bootstrap import LEVEL, Interval
from pqbench.scoring.formulas.influence import mean_contribution
from pqbench.scoring.formulas.neighbours import on_manifold

KYNKAANNIEMI = (
    "@inproceedings{kynkaanniemi2019improved, title={Improved Precision and Recall Metric for Assessing Generative "
    "Models}, author={Kynkaanniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo}, "
    "booktitle={NeurIPS}, year={2019}}"
)


@dataclass(frozen=True)
class _Manifold(ImageMetric):
    references: ClassVar[tuple[str, ...]] = (KYNKAANNIEMI,)
    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[tuple[Need, ...]] = ("features", "reference_features")
    k: int = parameter(3, help="which neighbour a ball reaches to", low=1)

    def unsuited(self, setting: Setting) -> str:
        """Each image needs k others."""
        fewest = min(setting.n, setting.reference_features)
        return "" if fewest > self.k else f"it needs more than {self.k} images and as many of the reference"


@dataclass(frozen=True)
class ManifoldPrecision(_Manifold):
    """Share of the images within the manifold of the real ones (Kynkaanniemi et al., 2019, eq. 2)."""

    name: ClassVar[str] = "precision"
    summary: ClassVar[str] = "share of the images on the real ones' manifold"
    title: ClassVar[str] = "Precision"

    def compute(self, given: MetricInputs) -> Score:
        """The share with Wilson's interval over images; the real images' manifold is taken as it is."""
        inside = self._inside(given)
        value = float(inside.double().mean())
        low, high = wilson_interval(value, len(inside))
        return Score(value, low, high, {"reference_images": len(given.reference.features)})

    def contribution(self, value: float, given: MetricInputs) -> Contribution:
        """Whether each image is inside, about the share that is."""
        return mean_contribution(value, self._inside(given))

    def _inside(self, given: MetricInputs) -> Tensor:
        return on_manifold(given.features, given.reference.features, self.k)


@dataclass(frozen=True)
class Recall(_Manifold):
    """Share of the real images within the manifold of the others (Kynkaanniemi et al., 2019, eq. 2).

    It has no interval: a resample has copies of images, whose nearest neighbours are themselves.
    """

    name: ClassVar[str] = "recall"
    summary: ClassVar[str] = "share of the real images on the images' manifold"
    title: ClassVar[str] = "Recall"

    def compute(self, given: MetricInputs) -> Score:
        """The share."""
        inside = on_manifold(given.reference.features, given.features, self.k)
        return Score(float(inside.double().mean()), detail={"reference_images": len(inside)})


def wilson_interval(share: float, n: int) -> Interval:
    """95 % interval of a share of n (Wilson, 1927), which stays within 0 and 1 and has a width at both."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))
