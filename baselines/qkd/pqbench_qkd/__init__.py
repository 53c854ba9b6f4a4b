"""Knowledge distillation of a quantized denoiser from its full-precision model, at the same number of steps."""

from __future__ import annotations

from pqbench import hookimpl
from pqbench.contracts import Distiller
from pqbench_qkd.distiller import QuantizedKnowledgeDistillation


@hookimpl
def pqbench_distillers() -> list[type[Distiller]]:
    """Register the distiller; its calibration sampler, `trajectories`, is one of pqbench's own."""
    return [QuantizedKnowledgeDistillation]
