"""What is to be timed, and what the timing process answers: the JSON between the two."""

from __future__ import annotations

from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pqbench.results.hashing import digest

PROTOCOL_VERSION = 3
"""Raised when the way of measuring changes so that the same protocol would give other values.

3: the instruction set and the engine's kernels are part of it; before, two CPUs of one name shared a protocol.
2: a latency is the median of several processes' medians, a peak the largest of theirs; before, there was one process.
"""

CallKind = Literal["step", "sampling"]
"""What is called and timed: single steps, or whole sampling runs."""


class _Frozen(BaseModel):
    # A broken engine answers with NaN, which JSON has no number for.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class TimingSpec(_Frozen):
    """One model on one engine.

    workload, engine   names as in the registry, or `module:Class`
    checkpoint         packed checkpoint of the model (full precision: one without integers)
    steps              sampling steps of a run, from which the time of an image follows
    batches            batch sizes; memory is measured at the largest
    processes          in which all of it is measured, one after the other
    seconds            budget for the runs of one batch size in all processes; a few are made, whatever they cost
    exclusive          seconds for which a batch size may wait for a quiet machine, and be timed again when it was not
    turn               which of the processes this is for, from 0; parity is measured in that one alone
    """

    workload: str
    checkpoint: str
    engine: str
    steps: int = Field(ge=1)
    batches: tuple[int, ...] = Field(min_length=1)
    threads: int = Field(ge=1)
    processes: int = Field(default=3, ge=1)
    seconds: float = Field(default=3.0, gt=0)
    device: str = "cpu"
    exclusive: float = Field(default=0.0, ge=0)
    turn: int = Field(default=0, ge=0)


class TimingProtocol(_Frozen):
    """Everything that makes two latencies, or two memory figures, comparable.

    instruction_set   of the CPU, with caps that the environment sets
    kernels           what the engine says about its kernels on this CPU (`Engine.kernels`)
    """

    family: Literal["energy", "latency", "memory", "parity"]
    version: int = PROTOCOL_VERSION
    workload: str
    engine: str
    device: str
    machine: str
    instruction_set: tuple[str, ...] = ()
    kernels: dict[str, str] = {}
    threads: int
    batch: int
    processes: int

    @property
    def facts(self) -> dict[str, Any]:
        """Everything it fixes, as JSON holds it."""
        return self.model_dump(mode="json")

    @property
    def id(self) -> str:
        """First 8 hex digits of the sha256 of the canonical JSON."""
        return digest(self.facts)[:8]


class EnergyProtocol(TimingProtocol):
    """Everything that makes two energies comparable; `counters` are what was read."""

    counters: tuple[str, ...]


class EnergyUse(_Frozen):
    """Joules of an image, over `runs` whole sampling runs of a batch size."""

    joules: float
    runs: int
    counters: tuple[str, ...]


class CallTimes(_Frozen):
    """Seconds of one kind of call.

    thirds   medians of the first, the middle and the last third of the runs: three measurements of the same thing; none
             of fewer than three runs
    """

    first: float
    median: float
    p95: float
    runs: int
    thirds: tuple[float, ...] = ()


class LayerRun(_Frozen):
    """One compute-heavy operation that ran, as `pqbench.contracts.ExecutedLayer` describes it."""

    layers: tuple[str, ...]
    operation: str
    precision: str
    weights: str


class ParityStep(_Frozen):
    """Relative errors of one step's predictions at time step t: engine to simulation, and both to full precision."""

    t: int
    difference: float
    engine_to_fp: float
    simulation_to_fp: float


class ParityUse(_Frozen):
    """How one engine's predictions stand to the simulation's, along a few full-precision runs."""

    images: int
    steps: tuple[ParityStep, ...]

    def mean(self, name: Literal["difference", "engine_to_fp", "simulation_to_fp"]) -> float:
        """The mean of one of the errors over the time steps."""
        return fmean(getattr(step, name) for step in self.steps)


class BatchTimes(_Frozen):
    """One batch size: single steps, and whole sampling runs with the sampler's own arithmetic."""

    batch: int
    compile_seconds: float
    step: CallTimes
    sampling: CallTimes
    layer_precisions: dict[str, int]
    """How many operations ran at each precision."""
    weights_held: dict[str, int] = {}
    """In how many operations the engine holds the weights in which type."""
    layers: tuple[LayerRun, ...] = ()
    fell_back: tuple[str, ...] = ()
    """Layers that are quantized in the checkpoint and ran in floating point."""
    other_work: float
    """Share of the machine's CPU time that other processes took meanwhile."""
    other_cores: float = 0.0
    """The same in cores."""
    other_processes: tuple[str, ...] = ()
    """Of others on the same graphics card, by name."""
    waited: float = 0.0
    """Seconds that passed before a quiet machine was found, or not."""
    energy: EnergyUse | None = None

    def of(self, kind: CallKind) -> CallTimes:
        """The times of one kind of call."""
        return self.step if kind == "step" else self.sampling


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
    instruction_set: tuple[str, ...] = ()
    kernels: dict[str, str] = {}
    load_average: float = 0.0
    """Before anything was run."""
    memory: MemoryUse | None = None
    parity: ParityUse | None = None
    batches: tuple[BatchTimes, ...] = ()
