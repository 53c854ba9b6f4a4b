"""The manifest of a run: what was asked, with what, where; what earlier runs left in the same folder is kept."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pqbench.base.errors import UserError
from pqbench.base.version import __version__
from pqbench.components import Registry
from pqbench.results.records import Manifest, Record
from pqbench.results.store import RunFolder
from pqbench.run.environment import environment
from pqbench.run.plan import Plan


def make_manifest(plan: Plan, registry: Registry, folder: RunFolder) -> Manifest:
    """The manifest of `plan`, together with the cells in the folder that it does not replace."""
    earlier = folder.manifest() if folder.manifest_path.exists() else None
    return Manifest(
        pqbench_version=__version__,
        command=shlex.join(["pqbench", *sys.argv[1:]]),
        created=earlier.created if earlier else datetime.now(UTC).isoformat(timespec="seconds"),
        workload={
            **plan.workload_facts,
            "name": plan.workload.name,
            "distance": plan.workload.distance,
            "steps": plan.workload.steps,
            "card": dict(plan.workload.card()),
        },
        budget=plan.request.budget,
        methods=_unique((cell.job.composition.label for cell in plan.cells), earlier.methods if earlier else ()),
        seeds=_unique(plan.request.seeds, earlier.seeds if earlier else ()),
        protocols={**(earlier.protocols if earlier else {}), plan.protocol.id: plan.protocol.facts},
        plugins=tuple(_plugins(registry)),
        environment=environment(),
        cells=_unique((cell.key for cell in plan.cells), _kept(plan, folder, earlier.cells) if earlier else ()),
    )


def with_protocols(manifest: Manifest, records: Iterable[Record]) -> Manifest:
    """The manifest with the protocols of measurements that only the measuring itself could know (latency, memory)."""
    found = {
        metric.protocol: metric.detail["protocol"]
        for record in records
        for metric in record.metrics.values()
        if "protocol" in metric.detail
    }
    return manifest.model_copy(update={"protocols": manifest.protocols | found})


def check_workload(plan: Plan, folder: RunFolder) -> None:
    """Raise `UserError` when the folder holds results of another workload, which no table could show beside these."""
    if not folder.manifest_path.exists():
        return
    other = folder.manifest().workload.get("name")
    if other != plan.workload.name:
        raise UserError(
            f"{folder.path} holds results of the workload {other}, not of {plan.workload.name}: give another --output."
        )


def _kept(plan: Plan, folder: RunFolder, listed: Iterable[str]) -> Iterable[str]:
    """Listed cells that this plan does not replace by newer ones of the same method and seed.

    One that has no record yet may be the work of a run that is going on beside this one.
    """
    planned = {(cell.job.composition.label, cell.job.seed) for cell in plan.cells}
    replaced = {record.cell for record in folder.records() if (record.label, record.seed) in planned}
    return (cell for cell in listed if cell not in replaced)


def _plugins(registry: Registry) -> Iterable[dict[str, Any]]:
    for entry in registry.components():
        yield {
            "kind": entry.kind,
            "name": entry.name,
            "distribution": entry.provenance.distribution,
            "version": entry.provenance.version,
            "source_hash": entry.provenance.source_hash,
        }
    for failure in registry.failures():
        yield {"failure": str(failure)}


def _unique(*parts: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))
