"""The bundled workload of Fashion-MNIST: small enough for two cores of a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from pqbench.workloads.bundled import ASSETS, BundledWorkload
from pqbench.workloads.fashion_extractor import FashionExtractor


class Fashion(BundledWorkload):
    """Fashion-MNIST padded to 32x32 and folded to 4 x 16 x 16 (space-to-depth by 2): DDIM in 20 steps."""

    name: ClassVar[str] = "fashion"
    summary: ClassVar[str] = "clothes, shoes and bags, 32x32: the bundled model, no network needed"
    references: ClassVar[tuple[str, ...]] = (
        "@misc{xiao2017fashion, title={Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
        "Algorithms}, author={Xiao, Han and Rasul, Kashif and Vollgraf, Roland}, year={2017}, eprint={1708.07747}, "
        "archivePrefix={arXiv}}",
    )
    shape: ClassVar[tuple[int, int, int]] = (4, 16, 16)
    folder: ClassVar[Path] = ASSETS / "fashion"
    classifier: ClassVar[type[nn.Module]] = FashionExtractor

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 (N, 4, 16, 16) to images (N, 1, 32, 32) uint8: depth to space, clamped to [-1, 1], rounded."""
        return super().decode(nn.functional.pixel_shuffle(x_0, 2))
