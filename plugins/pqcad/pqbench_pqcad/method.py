"""The method `pqcad`: C_QC -> PQ -> C_DC -> CAD -> correction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pqbench.contracts import Method, Precision
from pqbench_pqcad.references import PQCAD


@dataclass(frozen=True)
class Pqcad(Method):
    """Progressive quantization to W4A4, distillation to half the steps, and the gain of each step undone."""

    name: ClassVar[str] = "pqcad"
    summary: ClassVar[str] = "PQCAD-DM: our implementation of the published description (W4A4, half the steps)"
    references: ClassVar[tuple[str, ...]] = (PQCAD,)
    precision: ClassVar[Precision] = Precision(4, 4)
    calibration: ClassVar[str] = "ndtc"
    quantizer: ClassVar[str] = "progressive"
    distiller: ClassVar[str] = "cad"
    correction: ClassVar[str] = "drift"
    deviations: ClassVar[tuple[str, ...]] = (
        "A correction of each step's gain is ours: the published description has none (correction=none).",
    )
    settings: ClassVar[Mapping[str, object]] = {"calibration.preset": "script"}
    ablation: ClassVar[Mapping[str, str]] = {
        "PQ and CAD": "pqcad",
        "PQ only": "pqcad[distiller=none]",
        "CAD only (fixed bits)": "pqcad[quantizer=ptq4dm]",
        "neither, but the correction": "pqcad[quantizer=ptq4dm,distiller=none]",
        "PQ only, and no correction": "pqcad[distiller=none,correction=none]",
        "no correction": "pqcad[correction=none]",
        "no momentum detector": "pqcad[detector=false]",
        "no smoothing of transitions": "pqcad[ramp=0,averaging=0]",
        "no noise injection": "pqcad[rho=0]",
        "lambda = 0: quantized teacher alone": "pqcad[lam=0]",
        "lambda = 1: FP model alone": "pqcad[lam=1]",
        "the paper's rival: fixed bits, plain PD": "ptq4dm[distiller=pd]",
        "fixed bits, nothing else": "ptq4dm",
    }
    """Fixed bits: PTQ4DM's L_p searched ranges and nearest rounding at the target width, on the same C_QC.

    Rows of pqcad have its correction unless they say otherwise."""
