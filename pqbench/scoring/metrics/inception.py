"""The inception score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from pqbench.contracts.metric import Contribution, ImageMetric, MetricInputs, Need, Score, Setting
from pqbench.contracts.parameters import parameter
from pqbench.scoring.formulas.inception_score import divergences, inception_scores
from pqbench.scoring.formulas.influence import delta_interval


@dataclass(frozen=True)
class InceptionScore(ImageMetric):
    """The mean over splits of exp(E KL(p(y|x) || p(y))) (Salimans et al., 2016). It knows no real images."""

    name: ClassVar[str] = "is"
    summary: ClassVar[str] = "inception score, of an extractor with logits"
    references: ClassVar[tuple[str, ...]] = (
        "@inproceedings{salimans2016improved, title={Improved Techniques for Training GANs}, author={Salimans, Tim and "
        "Goodfellow, Ian and Zaremba, Wojciech and Cheung, Vicki and Radford, Alec and Chen, Xi}, booktitle={NeurIPS}, "
        "year={2016}}",
    )
    title: ClassVar[str] = "IS"
    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[tuple[Need, ...]] = ("logits",)
    splits: int = parameter(10, help="parts whose scores are averaged", low=1)

    def unsuited(self, setting: Setting) -> str:
        """A split needs two images to vary."""
        return "" if setting.n >= 2 * self.splits else f"it needs at least {2 * self.splits} images, two a split"

    def compute(self, given: MetricInputs) -> Score:
        """The mean of the splits' scores, with its interval over images."""
        scores = inception_scores(given.logits, self.splits)
        value = float(scores.mean())
        low, high = delta_interval(self.contribution(value, given))
        return Score(value, low, high, {"split_std": float(scores.std(correction=0))})

    def contribution(self, value: float, given: MetricInputs) -> Contribution:
        """The influence of an image is its split's score times how far its divergence lies from the split's mean.

        What it changes in the split's mean distribution adds nothing to first order.
        """
        n = len(given.logits)
        influence = torch.zeros(n, dtype=torch.float64)
        for part, values in divergences(given.logits, self.splits):
            share = n / (self.splits * len(part))  # splits count alike, whether they have an image more or less
            influence[part] = share * values.mean().exp() * (values - values.mean())
        return Contribution(value, influence, 1 / n)
