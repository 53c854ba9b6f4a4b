"""The method `ptq4dm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pqbench.contracts import Method, Precision
from pqbench.quantization import PTQ4DM_BIBTEX


@dataclass(frozen=True)
class Ptq4dm(Method):
    """Normally distributed time-step calibration and an L_p search of every range, without reconstruction."""

    name: ClassVar[str] = "ptq4dm"
    summary: ClassVar[str] = "normally distributed time-step calibration, L_p range search"
    references: ClassVar[tuple[str, ...]] = (PTQ4DM_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "Published at W8A8 only; the default here is W4A4, the precision that the benchmark compares at.",
        "The network's outputs are not quantized; the paper studies it at 8 bits and finds it harmless (its Table 1).",
    )
    precision: ClassVar[Precision] = Precision(4, 4)
    calibration: ClassVar[str] = "ndtc"
    quantizer: ClassVar[str] = "ptq4dm"
