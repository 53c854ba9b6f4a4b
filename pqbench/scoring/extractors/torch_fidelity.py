"""The preset `fid-torch-fidelity`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from pqbench.contracts.extractor import Weights
from pqbench.contracts.workload import Extractor
from pqbench.scoring.extractors.published import FID_BIBTEX, INCEPTION_STATE
from pqbench.scoring.extractors.resize import bilinear_tensorflow1
from pqbench.scoring.extractors.rgb import RgbExtractor

SFID_BIBTEX = """@inproceedings{nash2021generating,
  title     = {Generating Images with Sparse Representations},
  author    = {Nash, Charlie and Menick, Jacob and Dieleman, Sander and Battaglia, Peter},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021}
}"""


@dataclass(frozen=True)
class FidTorchFidelity(RgbExtractor):
    """Inception as torch-fidelity runs it: the original graph's resizing, its features, its logits without the bias.

    It also gives the spatial features of sFID, which torch-fidelity does not: see `FidInception`.
    """

    name: ClassVar[str] = "fid-torch-fidelity"
    summary: ClassVar[str] = "the Inception of FID as torch-fidelity runs it; has logits and sFID's features too"
    references: ClassVar[tuple[str, ...]] = (FID_BIBTEX, SFID_BIBTEX)
    libraries: ClassVar[tuple[str, ...]] = ("torch-fidelity",)
    """Of which the blocks of its net are."""

    def weights(self) -> Weights:
        """The state dict that torch-fidelity and pytorch-fid share."""
        return INCEPTION_STATE

    def open(self, weights: Path | None, sha256: str) -> Extractor:
        """Read the state dict. Raises `UserError` for another file."""
        from pqbench.scoring.extractors.inception import OUTPUTS, load_inception

        assert weights is not None
        return Extractor(
            net=self.net(_prepare, load_inception(weights)),
            name=self.name,
            sha256=sha256,
            outputs=OUTPUTS,
            pixels=self.pixels("uint8, resized to 299x299 as TensorFlow 1 does (bilinear, not antialiased), float32"),
            channels=self.channels,
            distance="FID",
        )


def _prepare(images: Tensor) -> Tensor:
    pixels = bilinear_tensorflow1(images, 299)
    return ((pixels - 128) / 128).contiguous(memory_format=torch.channels_last)
