"""From a cell's finished stages to its record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pqbench.inspection.audit_result import Audit
from pqbench.results.names import IMAGE_PARITY, PARITY
from pqbench.results.records import Metric, Record
from pqbench.run.cache import StageCache
from pqbench.run.cell import Cell
from pqbench.run.execution.execute import cost_of
from pqbench.run.execution.trace import thinned
from pqbench.run.stages.compress import AUDIT, MODEL, TRACE
from pqbench.run.stages.images import load_images, save_strip
from pqbench.run.stages.measure import read_metrics

STRIP_IMAGES = 16
COMPRESSION_STAGES = ("calibrate", "quantize", "distill", "correct")


def empty_record(cell: Cell, **fields: Any) -> Record:
    """The record of a cell without its results; `fields` say why."""
    composition = cell.job.composition
    return Record(
        cell=cell.key,
        method=composition.name,
        label=composition.label,
        precision=str(composition.precision),
        workload=cell.job.workload.name,
        steps=cell.job.steps,
        seed=cell.job.seed,
        budget=cell.job.budget,
        components=composition.facts(),
        **{"status": "ok", **fields},
    )


def finished_record(cell: Cell, cache: StageCache, **fields: Any) -> Record:
    """The record of a cell whose stages are all in the cache."""
    model = cache.folder(cell.model.key)
    metrics: dict[str, Metric] = {}
    for stage in cell.finals:
        metrics |= read_metrics(cache.folder(stage.key))
    metrics["stored_bytes"] = _measured((model / MODEL).stat().st_size, "bytes", "file")
    metrics |= _compression_cost(cell, cache)
    return empty_record(
        cell,
        metrics=metrics,
        audit=Audit.model_validate_json((model / AUDIT).read_bytes()),
        trace=_traces(cell, cache),
        notes=tuple(parity_failures(metrics)),
        **fields,
    )


def parity_failures(metrics: Mapping[str, Metric]) -> Iterator[str]:
    """One sentence for each engine that does not compute the model: it has no latency, or its images are judged."""
    for name, metric in metrics.items():
        # Records from before there was a limit do not say whether it was kept.
        if name.startswith(IMAGE_PARITY) and not metric.detail.get("accepted", True):
            engine = name.removeprefix(IMAGE_PARITY)
            yield f"Judged are images of {engine}, which does not agree with the simulation: {metric.detail['reason']}"
        if name.startswith(PARITY) and not metric.detail["accepted"]:
            engine = name.removeprefix(PARITY)
            yield f"No latency on {engine}, which does not agree with the simulation: {metric.detail['reason']}"


def write_strip(cell: Cell, cache: StageCache, path: Path) -> None:
    """Keep the cell's first images beside its record, as one PNG."""
    save_strip(load_images(cache.folder(cell.images.key))[:STRIP_IMAGES], path)


def _compression_cost(cell: Cell, cache: StageCache) -> dict[str, Metric]:
    costs = [cost_of(stage, cache) for stage in cell if stage.name in COMPRESSION_STAGES]
    if not costs:
        return {}
    metrics = {"cost_seconds": _measured(sum(c["seconds"] for c in costs), "s", "wall clock")}
    peaks = [c["peak_memory_bytes"] for c in costs if c["peak_memory_bytes"] is not None]
    if peaks:
        metrics["cost_peak_memory_bytes"] = _measured(max(peaks), "bytes", "VmHWM of the run's process")
    return metrics


def _measured(value: float, unit: str, how: str) -> Metric:
    return Metric(value=value, unit=unit, direction="lower", n=1, protocol=how)


def _traces(cell: Cell, cache: StageCache) -> dict[str, list[dict[str, Any]]]:
    """Rows by stage; those of two calibration sets stand one behind the other."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for stage in cell:
        path = cache.folder(stage.key) / TRACE
        if path.exists():
            rows.setdefault(stage.name, []).extend(json.loads(path.read_bytes()))
    return {name: thinned(found) for name, found in rows.items()}
