"""PTQ4DM (Shang et al., CVPR 2023): post-training quantization calibrated on the denoising process."""

from __future__ import annotations

from pqbench import hookimpl
from pqbench.contracts import Method, Quantizer
from pqbench_ptq4dm.method import Ptq4dm
from pqbench_ptq4dm.quantizer import Ptq4dmQuantizer


@hookimpl
def pqbench_quantizers() -> list[type[Quantizer]]:
    """Register the quantizer."""
    return [Ptq4dmQuantizer]


@hookimpl
def pqbench_methods() -> list[type[Method]]:
    """Register the method; its calibration sampler, `ndtc`, is one of pqbench's own."""
    return [Ptq4dm]
