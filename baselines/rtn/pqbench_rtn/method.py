"""The method `rtn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pqbench.contracts import Method, Precision


@dataclass(frozen=True)
class RoundToNearest(Method):
    """Uniform calibration, min-max ranges, nearest rounding."""

    name: ClassVar[str] = "rtn"
    summary: ClassVar[str] = "round to nearest on min-max grids"
    precision: ClassVar[Precision] = Precision(4, 4)
    calibration: ClassVar[str] = "uniform"
    quantizer: ClassVar[str] = "minmax"
