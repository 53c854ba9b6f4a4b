"""CLIP score: how well images fit the prompts that they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.extractor import Weights
from pqbench.contracts.metric import ImageMetric, MetricInputs, Need, Score, Setting
from pqbench.contracts.parameters import parameter
from pqbench.scoring.clip.encoder import CONTEXT, MISSING, ClipEncoder, is_installed, open_encoder
from pqbench.scoring.clip.nets import CLIP_BIBTEX, NETS
from pqbench.scoring.clip.pixels import rule
from pqbench.scoring.formulas.bootstrap import mean_replicates, pivot_interval
from pqbench.scoring.libraries import with_versions

WEIGHT = 100.0
"""That of torchmetrics and of the literature on diffusion models; Hessel et al. (2021, eq. 1) take 2.5."""


@dataclass(frozen=True)
class ClipScore(ImageMetric):
    """The mean over the images of 100 max(cos(image, prompt), 0) in CLIP's space, with the prompt as it is.

    That is torchmetrics' definition. Hessel et al. (2021) weigh by 2.5 instead of 100, and put "A photo depicts" before
    the text.
    """

    name: ClassVar[str] = "clip_score"
    summary: ClassVar[str] = "how well images fit their prompts, by CLIP; for text models"
    references: ClassVar[tuple[str, ...]] = (
        "@inproceedings{hessel2021clipscore, title={{CLIPScore}: A Reference-free Evaluation Metric for Image "
        "Captioning}, author={Hessel, Jack and Holtzman, Ari and Forbes, Maxwell and Le Bras, Ronan and Choi, Yejin}, "
        "booktitle={Empirical Methods in Natural Language Processing (EMNLP)}, year={2021}}",
        CLIP_BIBTEX,
    )
    deviations: ClassVar[tuple[str, ...]] = (
        "Weighs by 100 and adds nothing to the prompt, as torchmetrics does; Hessel et al. weigh by 2.5 and write "
        "'A photo depicts' before it.",
    )
    title: ClassVar[str] = "CLIP score"
    direction: ClassVar[Literal["lower", "higher"]] = "higher"
    needs: ClassVar[tuple[Need, ...]] = ("images", "prompts")

    net: str = parameter("ViT-B-32", help="the CLIP: scores of two are not comparable", choices=tuple(NETS))

    def weights(self) -> Weights:
        """The net's published file."""
        return NETS[self.net].weights

    def fixes(self) -> Mapping[str, str]:
        """The encoder, how images and prompts come to it, and the formula."""
        net = NETS[self.net]
        return {
            "encoder": f"CLIP {self.net} ({net.source}), float32",
            "pixels": rule(net.size),
            "text": f"the prompt alone, cut at {CONTEXT} tokens",
            "formula": f"mean of {WEIGHT:g} max(cos, 0)",
            # The one resizes; the other makes tokens of texts and the net of its weights.
            "libraries": with_versions(("pillow", "open_clip_torch")),
        }

    def unsuited(self, setting: Setting) -> str:
        """It needs the extra `clip`, and images in colours or grey."""
        if not is_installed():
            return MISSING
        channels = setting.image[0]
        return "" if channels in (1, 3) else f"it needs RGB or grey images, and these have {channels} channels"

    def compute(self, given: MetricInputs) -> Score:
        """The mean with a bootstrap interval over images."""
        assert given.weights is not None, "the harness finds what weights() names"
        encoder = open_encoder(NETS[self.net], given.weights, given.device)
        each = WEIGHT * cosines(encoder, given).clamp(min=0)
        value, cut = float(each.mean()), sum(map(encoder.is_cut, given.prompts))
        low, high = pivot_interval(value, mean_replicates(each, given.rules.resamples, given.rules.seed))
        note = f"CLIP reads {CONTEXT} tokens: {cut} of {len(each)} prompts are longer and were cut."
        return Score(value, low, high, {"prompts_cut": cut}, (note,) if cut else (), each)


def cosines(encoder: ClipEncoder, given: MetricInputs) -> Tensor:
    """Of each image and its prompt: (N,) float64. Raises `UserError` when there are not as many of both."""
    images, prompts = given.images, given.prompts
    if len(images) != len(prompts):
        raise UserError(f"There are {len(images)} images and {len(prompts)} prompts: each image needs its own.")
    found, done = [], 0
    for batch in images:
        texts = encoder.texts(prompts[done : done + len(batch)])
        found.append((encoder.images(batch) * texts).sum(1))
        done += len(batch)
    return torch.cat(found)
