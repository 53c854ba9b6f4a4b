"""The bundled workload of CIFAR-10: a net at the field's resolution, in colour, that a GPU runs in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import nn

from pqbench.workloads.bundled import ASSETS, BundledWorkload
from pqbench.workloads.cifar10_extractor import Cifar10Extractor


class Cifar10(BundledWorkload):
    """CIFAR-10, 3 x 32 x 32, in pixel space: DDIM in 20 steps.

    The weights are stored in half precision; the full-precision model is what they are in float32.
    """

    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "animals and vehicles in colour, 32x32: a bundled net of 10 M parameters"
    references: ClassVar[tuple[str, ...]] = (
        "@techreport{krizhevsky2009learning, title={Learning Multiple Layers of Features from Tiny Images}, "
        "author={Krizhevsky, Alex}, institution={University of Toronto}, year={2009}}",
    )
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    folder: ClassVar[Path] = ASSETS / "cifar10"
    classifier: ClassVar[type[nn.Module]] = Cifar10Extractor
