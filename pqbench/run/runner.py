"""Run a plan: cell by cell, each record written as soon as its cell is finished."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from pqbench.base.errors import UserError
from pqbench.base.files import write_atomically
from pqbench.components import Registry
from pqbench.results.records import Manifest, Record, StageRun
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache
from pqbench.run.cell import Cell
from pqbench.run.comparisons import compare_run
from pqbench.run.execution.execute import Executor
from pqbench.run.execution.failures import CellError, cell_errors
from pqbench.run.execution.progress import RunProgress
from pqbench.run.manifest import check_workload, make_manifest, with_protocols
from pqbench.run.outcome import empty_record, finished_record, write_strip
from pqbench.run.plan import ACCEPTED_BY, Plan
from pqbench.scoring.acceptance import acceptance_note, check_acceptance

Mode = Literal["cached", "retry", "force", "read-only"]
MODES: tuple[Mode, ...] = get_args(Mode)

STRIPS, LOGS = "cells", "logs"
"""Folders in a run's folder: first images of each cell, and tracebacks."""


@dataclass
class Runner:
    """Executes a plan into a run folder.

    mode   cached: finished and failed cells are not run again; retry: failed ones are; force: everything is;
           read-only: nothing runs and nothing is written, missing cells are given as skipped
    """

    plan: Plan
    folder: RunFolder
    cache: StageCache
    registry: Registry
    console: Console
    mode: Mode = "cached"

    def run(self) -> list[Record]:
        """The records of all cells of the plan, in its order. Failed cells are among them.

        Raises `UserError` when the workload's own model is damaged, when the folder belongs to another workload, and
        when something cannot be written; finished cells stay recorded.
        """
        check_workload(self.plan, self.folder)
        if self.mode == "read-only":
            return self._look()
        self.plan.workload.denoiser()  # a damaged model is no method's failure: found before any work
        self.folder.write_manifest(self._manifest())
        records = self._all_cells()
        self.folder.write_manifest(with_protocols(self._manifest(), records))
        return records

    def compare(self) -> None:
        """Keep the comparisons of all rows in the folder. Raises `UserError` when they cannot be written."""
        self.folder.write_comparisons(compare_run(self.folder, self.cache, self.plan.workload, self.registry))

    def _manifest(self) -> Manifest:
        return make_manifest(self.plan, self.registry, self.folder)

    def _look(self) -> list[Record]:
        earlier = self._earlier()
        reason = "not computed yet, and this is a read-only run."
        return [
            earlier.get(cell.key) or empty_record(cell, status="skipped", reason=reason) for cell in self.plan.cells
        ]

    def _all_cells(self) -> list[Record]:
        earlier = self._earlier()
        records: list[Record] = []
        refusal = ""
        with RunProgress(self.console, (stage.key for cell in self.plan.cells for stage in cell)) as progress:
            executor = Executor(self.cache, progress, force=self.mode == "force")
            for cell in self.plan.cells:
                known = earlier.get(cell.key)
                record = self._skipped(cell, refusal, progress) if refusal else self._cell(cell, known, executor)
                if record != known:
                    self.folder.append(record)
                records.append(record)
                if cell.is_reference and record.status != "ok":
                    refusal = f"not run because the full-precision model failed: {record.reason}"
        return records

    def _earlier(self) -> dict[str, Record]:
        return {record.cell: record for record in self.folder.records()}

    def _skipped(self, cell: Cell, reason: str, progress: RunProgress) -> Record:
        progress.finish((stage.key for stage in cell), f"{cell.title}: skipped")
        return empty_record(cell, status="skipped", reason=reason)

    def _cell(self, cell: Cell, known: Record | None, executor: Executor) -> Record:
        if known is not None and self._keeps(known):
            executor.progress.finish((stage.key for stage in cell), f"{cell.title}: {known.status}, already recorded")
            return known
        done: list[StageRun] = []
        try:
            executor.execute(cell, done)
            return self._finished(cell, done)
        except CellError as error:
            executor.progress.finish((stage.key for stage in cell), f"{cell.title}: FAILED, {error.reason}")
            return self._failed(cell, done, error)

    def _keeps(self, known: Record) -> bool:
        """Whether an earlier record stands as it is."""
        if self.mode == "force" or known.status == "skipped":
            return False
        if known.status == "failed":
            return self.mode != "retry"
        return (self.folder.path / known.samples).is_file()

    def _finished(self, cell: Cell, done: list[StageRun]) -> Record:
        """The record; that of the full-precision model is a failure outside the workload's acceptance window."""
        strip = Path(STRIPS) / f"{file_name(cell)}.png"
        with cell_errors("the record"):
            write_strip(cell, self.cache, self.folder.path / strip)
            record = finished_record(cell, self.cache, stages=tuple(done), samples=str(strip))
        if not cell.is_reference:
            return record
        fd = record.metrics[ACCEPTED_BY]
        if not cell.job.scoring.is_own:
            note = "No acceptance window is known for this protocol: the full-precision model is unchecked."
            return record.model_copy(update={"notes": (*record.notes, note)})
        complaint = check_acceptance(cell.job.workload, cell.job.steps, fd.n, fd.value)
        if complaint:
            return record.model_copy(update={"status": "failed", "reason": complaint})
        note = acceptance_note(cell.job.workload, cell.job.steps, fd.n, fd.value)
        return record.model_copy(update={"notes": (*record.notes, note)})

    def _failed(self, cell: Cell, done: list[StageRun], error: CellError) -> Record:
        log = Path(LOGS) / f"{file_name(cell)}.txt"
        write_atomically(self.folder.path / log, error.details)
        return empty_record(
            cell, status="failed", reason=error.reason, stages=tuple(done), notes=(f"traceback in {log}",)
        )


def file_name(cell: Cell) -> str:
    """A name for the cell's files: readable, and unique by the start of its key."""
    return readable_name(cell.title, cell.key)


def readable_name(title: str, key: str) -> str:
    """`file_name` from a cell's title and key."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[:80]
    return f"{readable}-{key[:8]}"


def default_folder(plan: Plan) -> Path:
    """`results/WORKLOAD-BUDGET`."""
    return Path("results") / f"{plan.workload.name}-{plan.request.budget}"


def require_writable(folder: Path) -> None:
    """Raise `UserError` before any work when the results could not be written."""
    place = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, *(folder / name for name in (STRIPS, LOGS) if (folder / name).exists())):
            with tempfile.TemporaryFile(dir=place):
                pass
    except OSError as error:
        raise UserError(
            f"The results folder {place} cannot be written ({error.strerror}): pass another --output."
        ) from None
