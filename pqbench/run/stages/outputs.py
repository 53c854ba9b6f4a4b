"""What the stages of a cell left, as metrics read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from pqbench.contracts import Reference
from pqbench.contracts.metric import Need
from pqbench.run.stages.images import FEATURES, stored_images
from pqbench.scoring.values import Sources


@dataclass(frozen=True)
class Outputs:
    """Folders of finished stages.

    reference     gives the statistics of the real images
    fp_images     of the full-precision model; None for its own cell
    prompts       gives the prompt of each image, where the model takes text
    """

    features: Path
    images: Path
    reference: Callable[[], Reference]
    fp_images: Path | None = None
    fp_features: Path | None = None
    prompts: Callable[[], tuple[str, ...]] | None = None

    def sources(self) -> Sources:
        """How to read each of them. Nothing is read yet, and nothing but the reference is kept."""
        sources: dict[Need, Callable[[], Any]] = {"images": lambda: stored_images(self.images)}
        named: dict[str, Need] = {"features": "features", "spatial": "spatial", "logits": "logits"}
        for name in _names(self.features / FEATURES):
            if name in named:
                sources[named[name]] = _reader(self.features / FEATURES, name)
        sources["reference"] = cache(self.reference)
        if self.fp_images is not None:
            fp_images = self.fp_images
            sources["fp_images"] = lambda: stored_images(fp_images)
        if self.fp_features is not None:
            sources["fp_features"] = _reader(self.fp_features / FEATURES, "features")
        if self.prompts is not None:
            sources["prompts"] = self.prompts
        return sources


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _reader(path: Path, name: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with safe_open(path, "pt") as file:
            values: Tensor = file.get_tensor(name)
        return values

    return read
