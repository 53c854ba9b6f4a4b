"""The preset `fid-torch-fidelity`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pqbench.scoring.extractors.published import FID_BIBTEX
from pqbench.scoring.extractors.resize import bilinear_tensorflow1
from pqbench.scoring.extractors.rgb import Prepare
from pqbench.scoring.extractors.state_dict import StateDictExtractor

SFID_BIBTEX = """@inproceedings{nash2021generating,
  title     = {Generating Images with Sparse Representations},
  author    = {Nash, Charlie and Menick, Jacob and Dieleman, Sander and Battaglia, Peter},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021}
}"""


@dataclass(frozen=True)
class FidTorchFidelity(StateDictExtractor):
    """Inception as torch-fidelity runs it: the original graph's resizing, its features, its logits without the bias.

    It also gives the spatial features of sFID, which torch-fidelity does not: see `FidInception`.
    """

    name: ClassVar[str] = "fid-torch-fidelity"
    summary: ClassVar[str] = "the Inception of FID as torch-fidelity runs it; has logits and sFID's features too"
    references: ClassVar[tuple[str, ...]] = (FID_BIBTEX, SFID_BIBTEX)
    rule: ClassVar[str] = "uint8, resized to 299x299 as TensorFlow 1 does (bilinear, not antialiased), float32"

    def prepare(self) -> Prepare:
        """Resizes by that rule."""
        return _prepare


def _prepare(images: Tensor) -> Tensor:
    pixels = bilinear_tensorflow1(images, 299)
    return ((pixels - 128) / 128).contiguous(memory_format=torch.channels_last)
