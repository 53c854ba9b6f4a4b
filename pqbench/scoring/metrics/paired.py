"""Paired distances: each image against the full-precision model's image of the same noise."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from pqbench.contracts.metric import Contribution, ImageMetric, MetricInputs, Need, Score, Setting
from pqbench.scoring.formulas.bootstrap import mean_replicates, pivot_interval
from pqbench.scoring.formulas.influence import mean_contribution
from pqbench.scoring.formulas.paired import WINDOW, each_pair, psnr, ssim


class PairedMetric(ImageMetric):
    """The mean over the images of what each is to its partner; a subclass says what."""

    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[tuple[Need, ...]] = ("images", "fp_images")

    @abstractmethod
    def each(self, given: MetricInputs) -> Tensor:
        """Of each image and its partner: (N,) float64."""

    def compute(self, given: MetricInputs) -> Score:
        """The mean with a bootstrap interval."""
        values = self.each(given)
        value = float(values.mean())
        low, high = pivot_interval(value, mean_replicates(values, given.rules.resamples, given.rules.seed))
        return Score(value, low, high, each=values)

    def contribution(self, value: float, given: MetricInputs) -> Contribution | None:
        """Each image's deviation from the mean."""
        return mean_contribution(value, self.each(given))


class PsnrToFp(PairedMetric):
    """Peak signal-to-noise ratio."""

    name: ClassVar[str] = "psnr_to_fp"
    summary: ClassVar[str] = "PSNR to the full-precision model's image of the same noise"
    title: ClassVar[str] = "PSNR to FP"
    unit: ClassVar[str] = "dB"

    def each(self, given: MetricInputs) -> Tensor:
        """In dB."""
        return each_pair(psnr, given.images, given.fp_images)


class SsimToFp(PairedMetric):
    """Structural similarity (Wang et al., 2004)."""

    name: ClassVar[str] = "ssim_to_fp"
    summary: ClassVar[str] = "structural similarity to the full-precision model's image of the same noise"
    references: ClassVar[tuple[str, ...]] = (
        "@article{wang2004image, title={Image quality assessment: from error visibility to structural similarity}, "
        "author={Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.}, journal={IEEE "
        "Transactions on Image Processing}, year={2004}}",
    )
    title: ClassVar[str] = "SSIM to FP"

    def unsuited(self, setting: Setting) -> str:
        """Images must be at least as large as the window."""
        _, height, width = setting.image
        if min(height, width) >= WINDOW:
            return ""
        return f"it needs images of at least {WINDOW}x{WINDOW} pixels, and these have {height}x{width}"

    def each(self, given: MetricInputs) -> Tensor:
        """At most 1."""
        return each_pair(ssim, given.images, given.fp_images)
