"""From what the processes of a timing measured to metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pqbench.results.names import ENERGY, PARITY
from pqbench.results.records import Metric
from pqbench.timing import repeats
from pqbench.timing.parity import complaint
from pqbench.timing.spec import (
    BatchTimes,
    CallKind,
    EnergyProtocol,
    MemoryUse,
    ParityUse,
    TimingProtocol,
    TimingResult,
    TimingSpec,
)
from pqbench.timing.steadiness import agree, is_disturbed, is_unsteady


def metrics_of(spec: TimingSpec, results: Sequence[TimingResult]) -> dict[str, Metric]:
    """All metrics of a cell's timing processes, by name; parity alone when the engine does not compute the model.

    results   of one process or more, in their order; parity is that of the first one
    """
    metrics: dict[str, Metric] = {}
    first = results[0]
    if first.parity is not None:
        parity = metrics[f"{PARITY}{spec.engine}"] = _parity(spec, first, first.parity)
        if not parity.detail["accepted"]:
            return metrics
    for number, processes in enumerate(repeats.by_batch(results)):
        place = f"{spec.engine}/{processes[0].batch}"
        metrics[f"latency_ms_per_image@{place}"] = _latency(spec, results, processes, "sampling")
        metrics[f"latency_ms_per_step@{place}"] = _with_layers(_latency(spec, results, processes, "step"), processes[0])
        # Of the largest batch, which comes first and is that of the throughput.
        energies = [times for times in processes if times.energy is not None]
        if number == 0 and energies:
            metrics[f"{ENERGY}{place}"] = _energy(spec, first, energies)
    memories = [result.memory for result in results if result.memory is not None]
    if memories:
        metrics["peak_memory_bytes"] = _memory(spec, first, memories)
    return metrics


def _latency(
    spec: TimingSpec, results: Sequence[TimingResult], processes: Sequence[BatchTimes], kind: CallKind
) -> Metric:
    """A latency in milliseconds: of one image in a whole run, or of one step of the batch."""
    times = repeats.combined_batch(processes)
    calls = times.of(kind)
    milliseconds = 1000 / (times.batch if kind == "sampling" else 1)
    protocol = _protocol("latency", spec, results[0], times.batch)
    detail: dict[str, Any] = {
        "p95": calls.p95 * milliseconds,
        "first_call": calls.first * milliseconds,
        "runs": calls.runs,
        "steps": spec.steps,
        "batch": times.batch,
        "threads": spec.threads,
        "layer_precisions": times.layer_precisions,
        "weights_held": times.weights_held,
        "fell_back": list(times.fell_back),
        "compile_seconds": times.compile_seconds,
        "load_average": results[0].load_average,
        "other_work": times.other_work,
        "other_cores": times.other_cores,
        "other_processes": list(times.other_processes),
        "waited": times.waited,
        "processes": [
            _process_latency(result, each, kind, milliseconds) for result, each in zip(results, processes, strict=True)
        ],
        "noisy": is_unsteady(processes, kind, spec.steps),
        "protocol": protocol.facts,
    }
    return Metric(
        value=calls.median * milliseconds,
        unit="ms",
        direction="lower",
        n=calls.runs,
        protocol=protocol.id,
        detail=detail,
    )


def _process_latency(result: TimingResult, times: BatchTimes, kind: CallKind, milliseconds: float) -> dict[str, Any]:
    """What one process says by itself; `value` is its median, in the metric's unit."""
    calls = times.of(kind)
    return {
        "value": calls.median * milliseconds,
        "p95": calls.p95 * milliseconds,
        "first_call": calls.first * milliseconds,
        "runs": calls.runs,
        "thirds": [each * milliseconds for each in calls.thirds],
        "compile_seconds": times.compile_seconds,
        "load_average": result.load_average,
        "other_work": times.other_work,
        "other_cores": times.other_cores,
        "waited": times.waited,
    }


def _with_layers(step: Metric, times: BatchTimes) -> Metric:
    """Once is enough: there are as many entries as layers."""
    layers = [layer.model_dump(mode="json") for layer in times.layers]
    return step.model_copy(update={"detail": step.detail | {"layers": layers}})


def _energy(spec: TimingSpec, result: TimingResult, processes: Sequence[BatchTimes]) -> Metric:
    """Joules of an image; noisy where others were busy, for the counters count them too, or processes disagree."""
    times = repeats.combined_batch(processes)
    energy = times.energy
    assert energy is not None
    joules = [each.energy.joules for each in processes if each.energy is not None]
    protocol = EnergyProtocol(
        **_protocol("energy", spec, result, times.batch).facts,
        counters=energy.counters,
    )
    detail = {
        "counters": list(energy.counters),
        "other_work": times.other_work,
        "other_cores": times.other_cores,
        "other_processes": list(times.other_processes),
        "processes": [{"value": each} for each in joules],
        "noisy": any(map(is_disturbed, processes)) or not agree(joules),
        "protocol": protocol.facts,
    }
    return Metric(value=energy.joules, unit="J", direction="lower", n=energy.runs, protocol=protocol.id, detail=detail)


def _parity(spec: TimingSpec, result: TimingResult, parity: ParityUse) -> Metric:
    """The relative difference of one step between engine and simulation, beside both ones' distance to FP."""
    protocol = _protocol("parity", spec, result, max(spec.batches))
    reason = complaint(parity)
    detail = {
        "engine_to_fp": parity.mean("engine_to_fp"),
        "simulation_to_fp": parity.mean("simulation_to_fp"),
        "by_step": parity.model_dump(mode="json")["steps"],
        "accepted": not reason,
        "reason": reason,
        "protocol": protocol.facts,
    }
    return Metric(
        value=parity.mean("difference"),
        unit="",
        direction="lower",
        n=parity.images * len(parity.steps),
        protocol=protocol.id,
        detail=detail,
    )


def _memory(spec: TimingSpec, result: TimingResult, processes: Sequence[MemoryUse]) -> Metric:
    """The highest peak, with the other figures of its process."""
    memory = repeats.combined_memory(processes)
    protocol = _protocol("memory", spec, result, memory.batch)
    detail = memory.model_dump(exclude={"peak"}) | {
        "engine": spec.engine,
        "processes": [{"value": each.peak} for each in processes],
        "protocol": protocol.facts,
    }
    return Metric(
        value=memory.peak, unit="bytes", direction="lower", n=len(processes), protocol=protocol.id, detail=detail
    )


def _protocol(
    family: Literal["energy", "latency", "memory", "parity"], spec: TimingSpec, result: TimingResult, batch: int
) -> TimingProtocol:
    return TimingProtocol(
        family=family,
        workload=spec.workload,
        engine=spec.engine,
        device=spec.device,
        machine=result.machine,
        instruction_set=result.instruction_set,
        kernels=result.kernels,
        threads=spec.threads,
        batch=batch,
        processes=1 if family == "parity" else spec.processes,
    )
