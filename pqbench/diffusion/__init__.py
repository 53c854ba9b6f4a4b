"""Diffusion: the DDIM sampler and its steps, initial noise (one seed an image), inputs along denoising runs.

What is exported here is public; the modules are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.base.lazy import lazy_names

if TYPE_CHECKING:
    from pqbench.diffusion.ddim import Denoiser, coefficient, ddim_sample, ddim_step, successors
    from pqbench.diffusion.merged import merged_prediction
    from pqbench.diffusion.noise import initial_noise
    from pqbench.diffusion.trajectories import collect

__all__ = [
    "Denoiser",
    "coefficient",
    "collect",
    "ddim_sample",
    "ddim_step",
    "initial_noise",
    "merged_prediction",
    "successors",
]

if not TYPE_CHECKING:  # a checker would take any name for one that exists
    __getattr__ = lazy_names(
        __name__,
        {
            "pqbench.diffusion.ddim": ("Denoiser", "coefficient", "ddim_sample", "ddim_step", "successors"),
            "pqbench.diffusion.merged": ("merged_prediction",),
            "pqbench.diffusion.noise": ("initial_noise",),
            "pqbench.diffusion.trajectories": ("collect",),
        },
    )
