"""PQCAD: progressive quantization and calibration-assisted distillation, as pqbench components.

Our implementation of the published description of PQCAD-DM (Ko and Jang, arXiv 2506.16776). Its equations are not
public; design choices that fill the gaps are pqbench's and are named parameters.
"""

from __future__ import annotations

from pqbench import hookimpl
from pqbench.contracts import CalibrationSampler, Correction, Distiller, Method, Quantizer
from pqbench_pqcad.cad import CalibrationAssistedDistillation
from pqbench_pqcad.drift import Drift
from pqbench_pqcad.method import Pqcad
from pqbench_pqcad.progressive import ProgressiveQuantizer
from pqbench_pqcad.stratified import Stratified


@hookimpl
def pqbench_calibrations() -> list[type[CalibrationSampler]]:
    """C_DC."""
    return [Stratified]


@hookimpl
def pqbench_quantizers() -> list[type[Quantizer]]:
    """PQ."""
    return [ProgressiveQuantizer]


@hookimpl
def pqbench_distillers() -> list[type[Distiller]]:
    """CAD."""
    return [CalibrationAssistedDistillation]


@hookimpl
def pqbench_corrections() -> list[type[Correction]]:
    """What is done to the student's prediction."""
    return [Drift]


@hookimpl
def pqbench_methods() -> list[type[Method]]:
    """Their composition."""
    return [Pqcad]
