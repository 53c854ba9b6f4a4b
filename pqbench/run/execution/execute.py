"""Run the stages of one cell against the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqbench.base.files import write_atomically
from pqbench.base.float32 import exact_float32
from pqbench.contracts.context import ProgressCallback
from pqbench.results.records import StageRun
from pqbench.run.cache import StageCache
from pqbench.run.cell import Cell
from pqbench.run.execution.failures import CellError, cell_errors
from pqbench.run.execution.peak_memory import peak_bytes, reset_peak
from pqbench.run.execution.progress import RunProgress, seconds_since
from pqbench.run.execution.repeatable import repeatable
from pqbench.run.stage import Stage, StageName
from pqbench.run.stages import STAGE_FUNCTIONS
from pqbench.run.stages.compress import EARLIER

COST = "cost.json"


@dataclass
class Executor:
    """Executes cells one after the other in this process.

    force    make every output again, each once
    failed   stages that failed, by key: a cell that needs one fails for the same reason, without another attempt
    """

    cache: StageCache
    progress: RunProgress
    force: bool = False
    failed: dict[str, CellError] = field(default_factory=dict)
    _renewed: set[str] = field(default_factory=set)

    def execute(self, cell: Cell, done: list[StageRun]) -> None:
        """Produce every stage that is missing, and append each finished one to `done`.

        Raises `CellError` when a stage fails, and `UserError` when the cache cannot be written.
        """
        for stage in cell:
            done.append(self._produce(cell, stage))

    def make_model(self, cell: Cell) -> None:
        """Produce a cell's model, and nothing of what is measured on it. Raises as `execute` does."""
        for stage in cell.model:
            self._produce(cell, stage)

    def _produce(self, cell: Cell, stage: Stage) -> StageRun:
        if stage.key in self.failed:
            raise self.failed[stage.key]
        if self.force and stage.key not in self._renewed:
            self.cache.discard(stage.key)
        self._renewed.add(stage.key)
        title, started = f"{cell.title}: {stage.name}", time.monotonic()
        with self.progress.stage(title, still=stage.name == "time") as report:
            ran = self.cache.produce(
                stage.key,
                lambda folder: self._work(stage, folder, report),
                lambda text: self.progress.line(f"{title}: {text}"),
            )
        self.progress.finish([stage.key], f"{title}  {seconds_since(started) if ran else 'cached'}")
        return StageRun(stage=stage.name, key=stage.key, seconds=cost_of(stage, self.cache)["seconds"], cached=not ran)

    def _work(self, stage: Stage, folder: Path, report: ProgressCallback) -> None:
        inputs = {role: self.cache.folder(needed.key) for role, needed in stage.inputs.items()}
        try:
            with costed(stage.name, stage.key, folder):
                STAGE_FUNCTIONS[stage.name](stage, folder, inputs, report)
        except CellError as error:
            self.failed[stage.key] = error
            raise


@contextmanager
def costed(name: StageName, key: str, folder: Path) -> Iterator[None]:
    """Around the work of one stage: keeps in `folder` what it took. Raises `CellError` when it fails."""
    reset_peak()
    started = time.monotonic()
    with cell_errors(name), repeatable(key), exact_float32():
        yield
    seconds = time.monotonic() - started + _earlier_seconds(folder)
    cost = {"seconds": seconds, "peak_memory_bytes": peak_bytes()}
    write_atomically(folder / COST, json.dumps(cost))


def _earlier_seconds(folder: Path) -> float:
    """What killed attempts spent on the output of this one."""
    path = folder / EARLIER
    return float(json.loads(path.read_bytes())) if path.exists() else 0.0


def cost_of(stage: Stage, cache: StageCache) -> dict[str, Any]:
    """What a finished stage took when it ran: `seconds`, and `peak_memory_bytes` or None."""
    cost: dict[str, Any] = json.loads((cache.folder(stage.key) / COST).read_bytes())
    return cost
