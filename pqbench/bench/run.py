"""Run a plan: cell by cell, each record written as soon as its cell is finished."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

import pqbench
from pqbench.bench.cache import StageCache
from pqbench.bench.execute import CellRun, StageFailure, empty_record
from pqbench.bench.plan import REFERENCE_METHOD, Cell, Plan
from pqbench.bench.progress import RunProgress
from pqbench.bench.records import Manifest, Record
from pqbench.bench.store import RunFolder
from pqbench.environment import environment
from pqbench.errors import UserError
from pqbench.evaluation.quality import check_acceptance
from pqbench.files import write_atomically
from pqbench.registry import Registry

Mode = Literal["cached", "retry", "force", "read-only"]
MODES: tuple[Mode, ...] = ("cached", "retry", "force", "read-only")


@dataclass
class Runner:
    """Executes a plan into a run folder.

    mode   cached: finished and failed cells are not run again; retry: failed ones are; force: everything is;
           read-only: nothing runs, missing cells are reported as skipped
    """

    plan: Plan
    folder: RunFolder
    cache: StageCache
    registry: Registry
    console: Console
    mode: Mode = "cached"

    def run(self) -> list[Record]:
        """The records of all cells of the plan, in its order. Failed cells are among them."""
        earlier = {record.cell: record for record in self.folder.records()}
        self.folder.write_manifest(self._manifest())
        records = []
        refusal = ""
        with RunProgress(self.console, sum(len(list(cell)) for cell in self.plan.cells)) as progress:
            for cell in self.plan.cells:
                record = self._cell(cell, earlier.get(cell.key), refusal, progress)
                if record != earlier.get(cell.key):
                    self.folder.append(record)
                records.append(record)
                if record.method == REFERENCE_METHOD and record.status != "ok":
                    refusal = f"not run because the full-precision model failed: {record.reason}"
        return records

    def _cell(self, cell: Cell, earlier: Record | None, refusal: str, progress: RunProgress) -> Record:
        stages = len(list(cell))
        if refusal:
            progress.skip(stages, f"{cell.title}: skipped")
            return empty_record(cell, status="skipped", reason=refusal)
        if earlier is not None and self._keeps(earlier, cell):
            progress.skip(stages, f"{cell.title}: {earlier.status}, already recorded")
            return earlier
        if self.mode == "read-only":
            return empty_record(cell, status="skipped", reason="not computed yet, and this is a read-only run.")
        if self.mode == "force":
            for stage in cell:
                self.cache.discard(stage.key)
        return self._execute(cell, progress)

    def _keeps(self, earlier: Record, cell: Cell) -> bool:
        if self.mode == "force" or earlier.status == "skipped":
            return False
        if earlier.status == "failed":
            return self.mode != "retry"
        return not earlier.samples or (self.folder.path / earlier.samples).exists()

    def _execute(self, cell: Cell, progress: RunProgress) -> Record:
        run = CellRun(cell, self.cache, progress)
        done_before = progress.finished
        try:
            run.execute()
        except StageFailure as failure:
            progress.skip(len(list(cell)) - (progress.finished - done_before), f"{cell.title}: FAILED, {failure.reason}")
            log = self.folder.path / "logs" / f"{file_name(cell)}.txt"
            write_atomically(log, failure.details)
            return empty_record(
                cell,
                status="failed",
                reason=failure.reason,
                stages=tuple(run.runs),
                notes=(f"traceback in {log.relative_to(self.folder.path)}",),
            )
        strip = self.folder.path / "cells" / f"{file_name(cell)}.png"
        return self._accepted(cell, run.record(strip, self.folder.path))

    def _accepted(self, cell: Cell, record: Record) -> Record:
        """The record, failed when it is the full-precision model's and lies outside its acceptance window."""
        if record.method != REFERENCE_METHOD:
            return record
        fd = record.metrics["fd"]
        complaint = check_acceptance(cell.job.workload, cell.steps, fd.n, fd.value)
        return record.model_copy(update={"status": "failed", "reason": complaint}) if complaint else record

    def _manifest(self) -> Manifest:
        plan = self.plan
        cells = tuple(cell.key for cell in plan.cells)
        return Manifest(
            pqbench_version=pqbench.__version__,
            command=command_line(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            workload={
                "name": plan.workload.name,
                "distance": plan.workload.distance,
                "steps": plan.workload.steps,
                "fingerprint": plan.workload.fingerprint(),
                "card": dict(plan.workload.card()),
            },
            budget=plan.request.budget,
            methods=tuple(dict.fromkeys(cell.job.composition.label for cell in plan.cells)),
            seeds=plan.request.seeds,
            protocols={plan.protocol.id: plan.protocol.facts, **self._earlier_protocols()},
            plugins=tuple(self._plugins()),
            environment=environment(),
            cells=cells + tuple(key for key in self._other_cells() if key not in cells),
        )

    def _earlier_protocols(self) -> dict[str, dict[str, Any]]:
        return self.folder.manifest().protocols if self.folder.manifest_path.exists() else {}

    def _other_cells(self) -> list[str]:
        """Cells of earlier runs into this folder that this plan does not replace by newer ones."""
        planned = {(cell.job.composition.label, cell.job.seed) for cell in self.plan.cells}
        return [r.cell for r in self.folder.records() if (r.label, r.seed) not in planned]

    def _plugins(self) -> list[dict[str, Any]]:
        registered = [
            {
                "kind": entry.kind,
                "name": entry.name,
                "distribution": entry.provenance.distribution,
                "version": entry.provenance.version,
                "source_hash": entry.provenance.source_hash,
            }
            for entry in self.registry.components()
        ]
        return registered + [{"failure": str(failure)} for failure in self.registry.failures()]


def file_name(cell: Cell) -> str:
    """A name for the cell's files: readable, and unique by the end of its key."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", cell.title).strip("-")
    return f"{readable}-{cell.key[:8]}"


def command_line() -> str:
    """The command that is being run, as one could type it."""
    import shlex

    return shlex.join(["pqbench", *sys.argv[1:]])


def default_folder(plan: Plan) -> Path:
    """`results/WORKLOAD-BUDGET`."""
    return Path("results") / f"{plan.workload.name}-{plan.request.budget}"


def require_writable(folder: Path) -> None:
    """Raise `UserError` before any work when the results could not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The results folder {folder} cannot be made ({error.strerror}): pass another --output.") from None
