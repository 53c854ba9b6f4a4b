"""The packed checkpoints of a run, audited and held against what its records say about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pqbench.base.errors import UserError
from pqbench.inspection.stored_bits import FileAudit, audit_file
from pqbench.results.cell_audit import CellAudit
from pqbench.results.records import Record
from pqbench.run.cache import StageCache
from pqbench.run.checkpoints import CellCheckpoint, checkpoints


def audit_cells(records: Iterable[Record], cache: StageCache) -> Iterator[CellAudit]:
    """Audit the checkpoint of every cell that is still in the cache."""
    for found in checkpoints(records, cache):
        record = found.record
        cell = CellAudit(
            cell=record.cell,
            label=record.label,
            precision=record.precision,
            seed=record.seed,
            missing=found.missing,
        )
        yield cell.model_copy(update=_audited(found))


def _audited(found: CellCheckpoint) -> dict[str, object]:
    if found.path is None:
        return {}
    try:
        audit = audit_file(found.path)
    except UserError as error:
        return {"problem": str(error)}
    return {"file": audit, "problem": _difference(audit, found.record)}


def _difference(audit: FileAudit, record: Record) -> str:
    """Where the file and the record disagree; empty for a cell that failed before anything was recorded of its model.

    Compared to half a unit in the sixth place: sums of bits are taken in another order.
    """
    claims = {}
    if record.audit is not None:
        claims["bits a weight"] = (record.audit.average_weight_bits, audit.average_weight_bits)
    if "stored_bytes" in record.metrics:
        claims["bytes"] = (record.metrics["stored_bytes"].value, float(audit.file_bytes))
    differing = [
        f"{what}: {claimed:.10g} recorded, {counted:.10g} in the file"
        for what, (claimed, counted) in claims.items()
        if abs(claimed - counted) > 5e-7 * abs(counted)
    ]
    return "; ".join(differing)
