"""The Frechet distance at infinitely many images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pqbench.contracts.metric import ImageMetric, MetricInputs, Need, Score, Setting
from pqbench.contracts.parameters import parameter
from pqbench.scoring.formulas.influence import frechet_with_influences
from pqbench.scoring.formulas.n_bias import FEWEST_PER_FEATURE, extrapolated
from pqbench.scoring.metrics.frechet import few_references


@dataclass(frozen=True)
class FrechetInfinity(ImageMetric):
    """The Frechet distance to the real images without the bias of few images (Chong and Forsyth, 2020)."""

    name: ClassVar[str] = "fd_infinity"
    summary: ClassVar[str] = "Frechet distance extrapolated to infinitely many images (FID infinity)"
    references: ClassVar[tuple[str, ...]] = (
        "@inproceedings{chong2020effectively, title={Effectively Unbiased FID and Inception Score and Where to Find "
        "Them}, author={Chong, Min Jin and Forsyth, David}, booktitle={CVPR}, year={2020}}",
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "Images keep the noise that they were made from: no Sobol sequences.",
        "The interval is that over images by their influences; the paper has none.",
    )
    title: ClassVar[str] = "{distance}∞"
    direction: ClassVar[Literal["lower", "higher"]] = "lower"
    needs: ClassVar[tuple[Need, ...]] = ("features", "reference")
    points: int = parameter(15, help="subsets whose distances make the line", low=3, high=200)

    def unsuited(self, setting: Setting) -> str:
        """The largest subset must be well above the smallest, which must fill a covariance."""
        fewest = 2 * FEWEST_PER_FEATURE * setting.width
        return "" if setting.n >= max(fewest, 4) else f"it needs at least {fewest} images for {setting.width} features"

    def compute(self, given: MetricInputs) -> Score:
        """The line's value at 1/n = 0 with its interval, and the curve in `detail`."""
        features, reference = given.features, given.reference
        influence = frechet_with_influences(features, reference.mean, reference.covariance).images
        curve = extrapolated(features, reference.mean, reference.covariance, influence, self.points)
        detail = {"sizes": list(curve.sizes), "distances": list(curve.distances), "slope": curve.slope}
        notes = few_references(reference.n, len(reference.mean))
        return Score(curve.limit, *curve.interval, detail=detail, notes=notes)
