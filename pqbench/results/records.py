"""Records: what a finished (or failed) cell leaves. Tables, plots and verdicts are made from these alone."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pqbench.inspection.audit_result import Audit as Audit

SCHEMA_VERSION = 1

CHANGING = ("quantizer", "distiller", "correction")
"""Roles whose component makes another model of the workload's; a cell without any is the full-precision model."""

Direction = Literal["lower", "higher", "none"]
Status = Literal["ok", "failed", "skipped"]


class _Frozen(BaseModel):
    # JSON has no infinity (the PSNR of a picture to itself): written as the text "Infinity", it reads back as a float.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Metric(_Frozen):
    """One measured number. `low` and `high` bound a 95 % interval where there is one; n counts images or repeats."""

    value: float
    unit: str
    direction: Direction
    n: int
    protocol: str
    title: str = ""
    """Heading of its column, where a metric of the images says it."""
    low: float | None = None
    high: float | None = None
    detail: dict[str, Any] = {}


class StageRun(_Frozen):
    """One stage of a cell: its cache key, how long it took, and whether it was found in the cache."""

    stage: str
    key: str
    seconds: float
    cached: bool


class Record(_Frozen):
    """One line of records.jsonl.

    Metric names: those of the metrics of the images (fd, kid, psnr_to_fp, ...); latency_ms_per_image,
    latency_ms_per_step (each once for every engine and batch, as `latency_ms_per_image@openvino/1`); stored_bytes,
    peak_memory_bytes; cost_seconds, cost_peak_memory_bytes.
    """

    schema_version: int = SCHEMA_VERSION
    cell: str
    """Hash of everything that decides the cell's results."""
    method: str
    """The method's name, without its options."""
    label: str
    """As in tables: the method with the options the user gave, `pqcad[a=8]`."""
    precision: str
    workload: str
    steps: int
    seed: int
    budget: str
    status: Status
    reason: str = ""
    """Why it failed or was skipped, one sentence."""
    metrics: dict[str, Metric] = {}
    audit: Audit | None = None
    components: dict[str, dict[str, Any]] = {}
    """{"quantizer": {"name": ..., "distribution": ..., "version": ..., "parameters": {...}, "deviations": [...]}}"""
    trace: dict[str, list[dict[str, Any]]] = {}
    """Rows that components left, by stage."""
    stages: tuple[StageRun, ...] = ()
    samples: str = ""
    """Path of the cell's first images (PNG strip), relative to the run's folder."""
    notes: tuple[str, ...] = ()


class Manifest(_Frozen):
    """manifest.json: what was asked, with what, where."""

    schema_version: int = SCHEMA_VERSION
    pqbench_version: str
    command: str
    created: str
    workload: dict[str, Any]
    budget: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    protocols: dict[str, dict[str, Any]]
    """Short hash -> everything that the protocol fixes."""
    plugins: tuple[dict[str, Any], ...]
    environment: dict[str, Any]
    cells: tuple[str, ...]
