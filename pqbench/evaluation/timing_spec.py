"""What is to be timed, and what the timing process answers: the JSON between the two."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pqbench.bench.hashing import digest

PROTOCOL_VERSION = 1
"""Raised when the way of measuring changes so that the same protocol would give other values."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimingSpec(_Frozen):
    """One model on one engine.

    workload, engine   names as in the registry, or `module:Class`
    checkpoint         packed checkpoint of the model (full precision: one without integers)
    steps              sampling steps of a run, from which the time of an image follows
    batches            batch sizes; memory is measured at the largest
    seconds            budget for the runs of one batch size; a few are made, whatever they cost
    exclusive          seconds for which a batch size may wait for a quiet machine, and be timed again when it was not
    """

    workload: str
    checkpoint: str
    engine: str
    steps: int = Field(ge=1)
    batches: tuple[int, ...] = Field(min_length=1)
    threads: int = Field(ge=1)
    seconds: float = Field(default=3.0, gt=0)
    device: str = "cpu"
    exclusive: float = Field(default=0.0, ge=0)


class TimingProtocol(_Frozen):
    """Everything that makes two latencies, or two memory figures, comparable."""

    family: Literal["latency", "memory"]
    version: int = PROTOCOL_VERSION
    workload: str
    engine: str
    device: str
    machine: str
    threads: int
    batch: int

    @property
    def facts(self) -> dict[str, Any]:
        """Everything it fixes, as JSON holds it."""
        return self.model_dump(mode="json")

    @property
    def id(self) -> str:
        """First 8 hex digits of the sha256 of the canonical JSON."""
        return digest(self.facts)[:8]


class EnergyProtocol(_Frozen):
    """Everything that makes two energies comparable; `counters` are what was read."""

    family: Literal["energy"] = "energy"
    version: int = PROTOCOL_VERSION
    workload: str
    engine: str
    device: str
    machine: str
    threads: int
    batch: int
    counters: tuple[str, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """Everything it fixes, as JSON holds it."""
        return self.model_dump(mode="json")

    @property
    def id(self) -> str:
        """First 8 hex digits of the sha256 of the canonical JSON."""
        return digest(self.facts)[:8]


class EnergyUse(_Frozen):
    """Joules of an image, over `runs` whole sampling runs of a batch size."""

    joules: float
    runs: int
    counters: tuple[str, ...]


class CallTimes(_Frozen):
    """Seconds of one kind of call."""

    first: float
    median: float
    p95: float
    runs: int


class BatchTimes(_Frozen):
    """One batch size: single steps, and whole sampling runs with the sampler's own arithmetic."""

    batch: int
    compile_seconds: float
    step: CallTimes
    sampling: CallTimes
    layer_precisions: dict[str, int]
    other_work: float
    """Share of the machine's CPU time that other processes took meanwhile."""
    other_cores: float = 0.0
    """The same in cores."""
    other_processes: tuple[str, ...] = ()
    """Of others on the same graphics card, by name."""
    waited: float = 0.0
    """Seconds that passed before a quiet machine was found, or not."""
    energy: EnergyUse | None = None


class MemoryUse(_Frozen):
    """Bytes. `peak` is that of a sampling run; `baseline` is the process after its imports, before the model."""

    batch: int
    peak: int
    window: Literal["run", "process"]
    baseline: int
    loading_peak: int
    """Highest until the run started: conversion and compilation."""


class TimingResult(_Frozen):
    """All that one timing process found out, or the sentence that says why it could not."""

    error: str = ""
    machine: str = ""
    load_average: float = 0.0
    """Before anything was run."""
    memory: MemoryUse | None = None
    batches: tuple[BatchTimes, ...] = ()
