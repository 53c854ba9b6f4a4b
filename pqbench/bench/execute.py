"""Run the stages of one cell and make its record."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pqbench.bench.cache import StageCache
from pqbench.bench.peak_memory import peak_bytes, reset_peak
from pqbench.bench.plan import Cell
from pqbench.bench.progress import RunProgress
from pqbench.bench.records import Metric, Record, StageRun
from pqbench.bench.stage import Stage
from pqbench.bench.stages import STAGE_FUNCTIONS
from pqbench.bench.stages.compress import AUDIT, MODEL, TRACE
from pqbench.bench.stages.images import load_images, save_strip
from pqbench.bench.stages.measure import read_metrics
from pqbench.errors import UserError
from pqbench.quantization.audit_result import Audit

COST = "cost.json"
STRIP_IMAGES = 16
COMPRESSION_STAGES = ("calibrate", "quantize", "distill")


class StageFailure(Exception):
    """A stage did not finish. `reason` is one sentence for the record; `details` is the traceback, for a log."""

    def __init__(self, stage: Stage, reason: str, details: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.details = details


@dataclass
class CellRun:
    """The execution of one cell against a cache."""

    cell: Cell
    cache: StageCache
    progress: RunProgress
    force: bool = False
    runs: list[StageRun] = field(default_factory=list)

    def execute(self) -> None:
        """Produce every stage that is missing. Raises `StageFailure`, and `UserError` when the disk is full."""
        for stage in self.cell:
            self._produce(stage)

    def _produce(self, stage: Stage) -> None:
        started = time.monotonic()
        if self.cache.has(stage.key):
            self.progress.skip(1, f"{self.cell.title}: {stage.name}  cached")
            ran = False
        else:
            with self.progress.stage(self.cell.title, stage.name) as report:
                ran = self.cache.produce(stage.key, lambda folder: self._work(stage, folder, report))
        seconds = time.monotonic() - started if ran else self._cost(stage)["seconds"]
        self.runs.append(StageRun(stage=stage.name, key=stage.key, seconds=seconds, cached=not ran))

    def _work(self, stage: Stage, folder: Path, report: Callable[[int, int, str], None]) -> None:
        inputs = {role: self.cache.folder(needed.key) for role, needed in stage.inputs.items()}
        reset_peak()
        started = time.monotonic()
        try:
            STAGE_FUNCTIONS[stage.name](stage, folder, inputs, report)
        except UserError as error:
            raise StageFailure(stage, f"{stage.name}: {error}", traceback.format_exc()) from error
        except OSError:
            raise
        except MemoryError as error:
            reason = f"{stage.name} ran out of memory: lower its batch or the sample count."
            raise StageFailure(stage, reason, traceback.format_exc()) from error
        except Exception as error:
            reason = f"{stage.name} raised {type(error).__name__}: {str(error).strip() or 'no message'}"
            raise StageFailure(stage, " ".join(reason.split()), traceback.format_exc()) from error
        cost = {"seconds": time.monotonic() - started, "peak_memory_bytes": peak_bytes()}
        (folder / COST).write_text(json.dumps(cost))

    def _cost(self, stage: Stage) -> dict[str, Any]:
        cost: dict[str, Any] = json.loads((self.cache.folder(stage.key) / COST).read_text())
        return cost

    def record(self, strip: Path, run_folder: Path) -> Record:
        """The finished cell's record; its first images are written to `strip`, a PNG."""
        cell = self.cell
        save_strip(load_images(self.cache.folder(cell.images.key))[:STRIP_IMAGES], strip)
        model = self.cache.folder(cell.model.key)
        metrics = read_metrics(self.cache.folder(cell.score.key))
        if cell.timing is not None:
            metrics |= read_metrics(self.cache.folder(cell.timing.key))
        metrics["stored_bytes"] = _measured((model / MODEL).stat().st_size, "bytes", "file")
        metrics |= self._compression_cost()
        return empty_record(cell).model_copy(
            update={
                "metrics": metrics,
                "audit": Audit.model_validate_json((model / AUDIT).read_text()),
                "trace": self._traces(),
                "stages": tuple(self.runs),
                "samples": str(strip.relative_to(run_folder)),
            }
        )

    def _compression_cost(self) -> dict[str, Metric]:
        costs = [self._cost(stage) for stage in self.cell if stage.name in COMPRESSION_STAGES]
        if not costs:
            return {}
        metrics = {"cost_seconds": _measured(sum(c["seconds"] for c in costs), "s", "wall clock")}
        peaks = [c["peak_memory_bytes"] for c in costs if c["peak_memory_bytes"] is not None]
        if peaks:
            metrics["cost_peak_memory_bytes"] = _measured(max(peaks), "bytes", "VmHWM of the run's process")
        return metrics

    def _traces(self) -> dict[str, list[dict[str, Any]]]:
        traces = {}
        for stage in self.cell:
            path = self.cache.folder(stage.key) / TRACE
            if path.exists():
                traces[stage.name] = json.loads(path.read_text())
        return traces


def _measured(value: float, unit: str, how: str) -> Metric:
    return Metric(value=value, unit=unit, direction="lower", n=1, protocol=how)


def empty_record(cell: Cell, **fields: Any) -> Record:
    """The record of a cell without its results."""
    composition = cell.job.composition
    return Record(
        cell=cell.key,
        method=composition.name,
        label=composition.label,
        precision=str(composition.precision),
        workload=cell.job.workload.name,
        steps=cell.steps,
        seed=cell.job.seed,
        budget=cell.budget,
        components=composition.facts(),
        **{"status": "ok", **fields},
    )

