"""Draw a calibration set by itself, through the same stage, key and cache as a run does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pqbench.base.errors import UserError
from pqbench.base.files import write_atomically
from pqbench.components import Registry
from pqbench.components.grammar import parse_sampler
from pqbench.contracts import Budget, CalibrationSet, Context, Precision
from pqbench.contracts.context import ProgressCallback
from pqbench.methods.composition import sampler_part
from pqbench.run.cache import StageCache
from pqbench.run.execution.execute import costed
from pqbench.run.execution.failures import CellError
from pqbench.run.execution.progress import RunProgress
from pqbench.run.graph import calibration_facts
from pqbench.run.plan import require_device, workload_facts
from pqbench.run.stage import stage_key
from pqbench.run.stages.compress import CALIBRATION, SCRATCH, TRACE, draw_into


@dataclass(frozen=True)
class CalibrationRequest:
    """Which set is wanted.

    sampler   in the grammar of methods, `ndtc[preset=text]`
    steps     sampling steps that it is drawn at; None: the workload's
    """

    sampler: str
    workload: str = "fashion"
    budget: Budget = "quick"
    seed: int = 0
    steps: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Drawn:
    """A finished set.

    folder       its stage's output in the cache
    time_steps   row of the trace: how many samples there are at each sampling step
    """

    calibration: CalibrationSet
    folder: Path
    time_steps: dict[str, Any]

    def write(self, path: Path) -> None:
        """Put the set's file at `path`, whole or not at all. Raises `UserError` when it cannot be written."""
        write_atomically(path, (self.folder / CALIBRATION).read_bytes())


def draw_set(request: CalibrationRequest, registry: Registry, cache: StageCache, console: Console) -> Drawn:
    """The set that a run with the same sampler, workload, budget and seed works on, drawn or found in the cache.

    Raises `UserError` for names and values that cannot be, and when the sampler fails.
    """
    part = sampler_part(parse_sampler(request.sampler), registry, request.budget)
    found = registry.find("workload", request.workload)
    require_device(request.device, (found.component, part.component))
    workload = found.component()
    steps = _steps(request, workload.steps, workload.schedule().train_steps)
    facts = calibration_facts(
        part, workload_facts(found, workload), steps=steps, seed=request.seed, device=request.device
    )
    key, title = stage_key("calibrate", facts, {}), f"{request.sampler} on {workload.name} seed {request.seed}"
    with RunProgress(console, [key]) as progress, progress.stage(title) as report:

        def work(folder: Path, report: ProgressCallback = report) -> None:
            device, scratch = torch.device(request.device), folder / SCRATCH
            context = Context(workload, Precision(), steps, request.seed, device, report, scratch=scratch)
            with costed("calibrate", key, folder):
                draw_into(folder, part.component, context)

        try:
            ran = cache.produce(key, work, progress.line)
        except CellError as error:
            raise UserError(f"{request.sampler}: {error.reason}") from None
        progress.finish([key], f"{title}: {'drawn' if ran else 'found in the cache'}")
    folder = cache.folder(key)
    (row,) = json.loads((folder / TRACE).read_bytes())[-1:]
    return Drawn(CalibrationSet.load(folder / CALIBRATION), folder, row)


def _steps(request: CalibrationRequest, own: int, train_steps: int) -> int:
    steps = own if request.steps is None else request.steps
    if not 1 <= steps <= train_steps:
        raise UserError(f"--steps {steps} cannot be sampled: give 1 to {train_steps} steps.")
    return steps
