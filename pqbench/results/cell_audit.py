"""What the audit of a cell's checkpoint found."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pqbench.inspection.stored_bits import FileAudit


class CellAudit(BaseModel):
    """One cell. `missing` says why there is no file, `problem` what is wrong with it; both are empty otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell: str
    label: str
    precision: str
    seed: int
    file: FileAudit | None = None
    missing: str = ""
    problem: str = ""
