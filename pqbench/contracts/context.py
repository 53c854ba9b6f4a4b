"""What the harness hands to a component while it works."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pqbench.contracts.precision import Precision

if TYPE_CHECKING:
    from pqbench.contracts.workload import Workload

ProgressCallback = Callable[[int, int, str], None]
"""Called with (done, total, what is being done) as often as a component likes."""


def silent(done: int, total: int, message: str) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class Context:
    """The job of one stage: which workload, at which precision, on which device, with which seed.

    steps    sampling steps of the workload's full-precision model (the teacher's, for a distiller)
    trace    rows (plain dicts of numbers and texts) that a component leaves for the record and its plots
    scratch  a folder (it may not exist yet) for what helps to go on after a kill: the same job finds it again, and it
             is removed when the work is done; None: keep nothing. See `pqbench.distillation.ResumeFile`
    earlier  seconds that killed attempts spent on what this one found in `scratch`: they belong to the cost
    """

    workload: Workload
    precision: Precision
    steps: int
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: ProgressCallback = silent
    trace: list[dict[str, Any]] = field(default_factory=list)
    scratch: Path | None = None
    earlier: list[float] = field(default_factory=list)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator that depends on the seed and the purpose alone."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def timesteps(self) -> Tensor:
        """The training time steps that the workload's sampler visits, descending, (steps,) int64."""
        return self.workload.timesteps(self.steps)
