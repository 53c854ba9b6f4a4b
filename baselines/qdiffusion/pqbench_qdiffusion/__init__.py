"""Q-Diffusion (Li et al., ICCV 2023): quantization by block reconstruction, with split shortcuts."""

from __future__ import annotations

from pqbench import hookimpl
from pqbench.contracts import Method, Quantizer
from pqbench_qdiffusion.method import QDiffusion
from pqbench_qdiffusion.quantizer import QDiffusionQuantizer


@hookimpl
def pqbench_quantizers() -> list[type[Quantizer]]:
    """Register the quantizer."""
    return [QDiffusionQuantizer]


@hookimpl
def pqbench_methods() -> list[type[Method]]:
    """Register the method; its calibration sampler, `interval`, is one of pqbench's own."""
    return [QDiffusion]
