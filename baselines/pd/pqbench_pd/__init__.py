"""Progressive distillation (Salimans and Ho, ICLR 2022): half the sampling steps, again and again."""

from __future__ import annotations

from pqbench import hookimpl
from pqbench.contracts import Distiller
from pqbench_pd.distiller import ProgressiveDistillation


@hookimpl
def pqbench_distillers() -> list[type[Distiller]]:
    """Register the distiller; its calibration sampler, `trajectories`, is one of pqbench's own."""
    return [ProgressiveDistillation]
