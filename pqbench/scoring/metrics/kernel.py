"""The kernel inception distance, KID."""

from __future__ import annotations

from typing import ClassVar, Literal

from pqbench.contracts.metric import Contribution, ImageMetric, MetricInputs, Need, Score
from pqbench.scoring.formulas.bootstrap import WIDEST
from pqbench.scoring.formulas.influence import delta_interval, kernel_contribution
from pqbench.scoring.formulas.kernel import kernel_distance, kernel_interval


class KernelInceptionDistance(ImageMetric):
    """Squared maximum mean discrepancy under a cubic kernel, over random subsets (Binkowski et al., 2018)."""

    name: ClassVar[str] = "kid"
    summary: ClassVar[str] = "kernel distance to the real images (KID)"
    references: ClassVar[tuple[str, ...]] = (
        "@inproceedings{binkowski2018demystifying, title={Demystifying MMD GANs}, author={Binkowski, Mikolaj and "
        "Sutherland, Danica J. and Arbel, Michael and Gretton, Arthur}, booktitle={ICLR}, year={2018}}",
    )
    title: ClassVar[str] = "KID"
    direction: ClassVar[Literal["lower", "higher"]] = "lower"
    needs: ClassVar[tuple[Need, ...]] = ("features", "reference_features")

    def compute(self, given: MetricInputs) -> Score:
        """The mean over the subsets; the interval over images and subsets is a bootstrap's up to `WIDEST` features."""
        features, reference, rules = given.features, given.reference.features, given.rules
        found = kernel_distance(features, reference, rules.kid_subsets, rules.kid_subset_size, rules.kid_seed)
        if features.shape[1] <= WIDEST:
            low, high = kernel_interval(found, features, reference, rules.resamples, rules.seed)
        else:
            low, high = delta_interval(self.contribution(found.value, given))
        return Score(found.value, low, high, {"subset_std": found.subset_std})

    def contribution(self, value: float, given: MetricInputs) -> Contribution:
        """The influence of each image, and of each reference image on the subsets."""
        rules = given.rules
        return kernel_contribution(
            value, given.features, given.reference.features, rules.kid_subsets, rules.kid_subset_size
        )
