"""What the extractors share that read the state dict of FID's Inception."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pqbench.contracts.extractor import Weights
from pqbench.contracts.workload import Extractor
from pqbench.scoring.extractors.published import INCEPTION_STATE
from pqbench.scoring.extractors.rgb import Prepare, RgbExtractor


@dataclass(frozen=True)
class StateDictExtractor(RgbExtractor):
    """Base of the extractors that differ in how they resize an image for this net."""

    libraries: ClassVar[tuple[str, ...]] = ("torch-fidelity",)
    """Of which the blocks of its net are."""
    rule: ClassVar[str]
    """The resize in words, for the protocol."""

    @abstractmethod
    def prepare(self) -> Prepare:
        """What resizes an image and scales its values."""

    def weights(self) -> Weights:
        """The state dict that torch-fidelity and pytorch-fid share."""
        return INCEPTION_STATE

    def open(self, weights: Path | None, sha256: str) -> Extractor:
        """Read the state dict. Raises `UserError` for another file."""
        from pqbench.scoring.extractors.inception import OUTPUTS, load_inception

        assert weights is not None
        return Extractor(
            net=self.net(self.prepare(), load_inception(weights)),
            name=self.name,
            sha256=sha256,
            outputs=OUTPUTS,
            pixels=self.pixels(self.rule),
            channels=self.channels,
            distance="FID",
        )
