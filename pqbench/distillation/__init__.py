"""Distillation: whom a student learns from, the targets, and bases of distillers that train towards them.

What is exported here is public; the modules are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.base.lazy import lazy_names

if TYPE_CHECKING:
    from pqbench.distillation.guides import Guide, shared_target
    from pqbench.distillation.targets import student_samples, student_timesteps
    from pqbench.distillation.trained import HalvingDistiller, TrainedDistiller, halved_teacher
    from pqbench.training.resume import ResumeFile, digest_of
    from pqbench.training.watch import DivergedError

__all__ = [
    "DivergedError",
    "Guide",
    "HalvingDistiller",
    "ResumeFile",
    "TrainedDistiller",
    "digest_of",
    "halved_teacher",
    "shared_target",
    "student_samples",
    "student_timesteps",
]

if not TYPE_CHECKING:  # a checker would take any name for one that exists
    __getattr__ = lazy_names(
        __name__,
        {
            "pqbench.distillation.guides": ("Guide", "shared_target"),
            "pqbench.distillation.targets": ("student_samples", "student_timesteps"),
            "pqbench.distillation.trained": ("HalvingDistiller", "TrainedDistiller", "halved_teacher"),
            "pqbench.training.resume": ("ResumeFile", "digest_of"),
            "pqbench.training.watch": ("DivergedError",),
        },
    )
