"""PTQD (He et al., NeurIPS 2023): quantization noise split into a correlated part, a bias and a rest."""

from __future__ import annotations

from pqbench import hookimpl
from pqbench.contracts import Correction, Method
from pqbench_ptqd.correction import PtqdCorrection
from pqbench_ptqd.method import Ptqd


@hookimpl
def pqbench_corrections() -> list[type[Correction]]:
    """Register the correction."""
    return [PtqdCorrection]


@hookimpl
def pqbench_methods() -> list[type[Method]]:
    """Register the method; its quantizer, `qdiffusion`, is that of another package."""
    return [Ptqd]
