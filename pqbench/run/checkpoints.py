"""Where the packed checkpoints of a run's cells are: in the stage cache, under the key of the stage that made them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pqbench.results.records import Record
from pqbench.run.cache import StageCache
from pqbench.run.stages.compress import MODEL


@dataclass(frozen=True)
class CellCheckpoint:
    """A cell with the place of its packed checkpoint. `missing` says why there is none, and is empty otherwise."""

    record: Record
    path: Path | None
    missing: str = ""

    @property
    def title(self) -> str:
        """`pqcad w4a4 seed 0`."""
        return f"{self.record.label} {self.record.precision} seed {self.record.seed}"


def checkpoints(records: Iterable[Record], cache: StageCache) -> Iterator[CellCheckpoint]:
    """The checkpoint of each cell, as far as it was made and is still in the cache."""
    for record in records:
        key = _model_key(record)
        if key is None:
            yield CellCheckpoint(record, None, f"{record.status} before it had a model")
        elif not cache.has(key):
            yield CellCheckpoint(record, None, f"no longer in the cache {cache.root} ({key[:8]}): run it again")
        else:
            yield CellCheckpoint(record, cache.folder(key) / MODEL)


def _model_key(record: Record) -> str | None:
    """Key of the stage that left the cell's final model; None when a failed cell did not get there."""
    keys = {run.stage: run.key for run in record.stages}
    made_by = {"correction": "correct", "distiller": "distill", "quantizer": "quantize"}
    stage = next((stage for role, stage in made_by.items() if role in record.components), "export")
    return keys.get(stage)
