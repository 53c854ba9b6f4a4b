"""The method `qdiffusion`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pqbench.contracts import Method, Precision
from pqbench.quantization import Q_DIFFUSION_BIBTEX


@dataclass(frozen=True)
class QDiffusion(Method):
    """Calibration at every c-th step, AdaRound over blocks, learned activation step sizes, split shortcuts."""

    name: ClassVar[str] = "qdiffusion"
    summary: ClassVar[str] = "time-step-aware calibration, block reconstruction, split shortcuts"
    references: ClassVar[tuple[str, ...]] = (Q_DIFFUSION_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "Published at W4A8 and W8A8 (and with full-precision activations); the default here is W4A4, the precision "
        "that the benchmark compares at.",
    )
    precision: ClassVar[Precision] = Precision(4, 4)
    calibration: ClassVar[str] = "interval"
    quantizer: ClassVar[str] = "qdiffusion"
