"""From what a timing process measured to metrics."""

from __future__ import annotations

from typing import Any, Literal

from pqbench.bench.records import Metric
from pqbench.evaluation.machine import is_busy
from pqbench.evaluation.parity import complaint
from pqbench.evaluation.timing_spec import (
    BatchTimes,
    CallTimes,
    EnergyProtocol,
    EnergyUse,
    MemoryUse,
    ParityUse,
    TimingProtocol,
    TimingResult,
    TimingSpec,
)

ENERGY = "energy_joules_per_image@"
TAIL_RATIO = 1.5
"""So does a 95th percentile this many times the median."""
SLOW_RUN_RATIO = 1.5
"""So do whole runs that take this many times what their steps take by themselves, or the other way round."""
REPEAT_LIMIT = 1.05
"""And so do thirds of the runs whose medians are further apart than this: three measurements would not agree."""
PARITY = "parity@"


def metrics_of(spec: TimingSpec, result: TimingResult) -> dict[str, Metric]:
    """All metrics of one timing process, by name; parity alone when the engine does not compute the model."""
    metrics: dict[str, Metric] = {}
    if result.parity is not None:
        parity = metrics[f"{PARITY}{spec.engine}"] = _parity(spec, result, result.parity)
        if not parity.detail["accepted"]:
            return metrics
    for times in result.batches:
        place = f"{spec.engine}/{times.batch}"
        metrics[f"latency_ms_per_image@{place}"] = _latency(spec, result, times, times.sampling, times.batch)
        step = _latency(spec, result, times, times.step, 1)
        # Once is enough: there are as many entries as layers.
        layers = [layer.model_dump(mode="json") for layer in times.layers]
        metrics[f"latency_ms_per_step@{place}"] = step.model_copy(update={"detail": step.detail | {"layers": layers}})
    # Of the largest batch, which is that of the throughput.
    if result.batches and (energy := result.batches[0].energy) is not None:
        place = f"{spec.engine}/{result.batches[0].batch}"
        metrics[f"{ENERGY}{place}"] = _energy(spec, result, result.batches[0], energy)
    if result.memory is not None:
        metrics["peak_memory_bytes"] = _memory(spec, result, result.memory)
    return metrics


def _latency(spec: TimingSpec, result: TimingResult, times: BatchTimes, calls: CallTimes, share: int) -> Metric:
    """A latency in milliseconds of one call, divided among `share` images."""
    milliseconds = 1000 / share
    protocol = _protocol("latency", spec, result, times.batch)
    detail: dict[str, Any] = {
        "p95": calls.p95 * milliseconds,
        "first_call": calls.first * milliseconds,
        "runs": calls.runs,
        "steps": spec.steps,
        "batch": times.batch,
        "threads": spec.threads,
        "thirds": [each * milliseconds for each in calls.thirds],
        "layer_precisions": times.layer_precisions,
        "weights_held": times.weights_held,
        "fell_back": list(times.fell_back),
        "compile_seconds": times.compile_seconds,
        "load_average": result.load_average,
        "other_work": times.other_work,
        "other_cores": times.other_cores,
        "other_processes": list(times.other_processes),
        "waited": times.waited,
        "noisy": is_noisy(times, calls, spec.steps),
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


def is_noisy(times: BatchTimes, calls: CallTimes, steps: int) -> bool:
    """Whether a latency should be measured again on a quieter machine.

    A machine that slows down for all runs of one kind shows no tail in them, but runs and their steps then disagree.
    One that changes its speed once shows no tail either, but the thirds of the runs then disagree.
    """
    together, alone = times.sampling.median, steps * times.step.median
    disagree = max(together, alone) > SLOW_RUN_RATIO * min(together, alone)
    drifts = bool(calls.thirds) and max(calls.thirds) > REPEAT_LIMIT * min(calls.thirds)
    return is_disturbed(times) or calls.p95 > TAIL_RATIO * calls.median or disagree or drifts


def is_disturbed(times: BatchTimes) -> bool:
    """Whether other processes had the processor, or were on the graphics card, while a batch size was timed."""
    return is_busy(times.other_work, times.other_cores) or bool(times.other_processes)


def _energy(spec: TimingSpec, result: TimingResult, times: BatchTimes, energy: EnergyUse) -> Metric:
    """Joules of an image; as noisy as others were busy, for the counters count them too."""
    protocol = EnergyProtocol(
        family="energy",
        workload=spec.workload,
        engine=spec.engine,
        device=spec.device,
        machine=result.machine,
        threads=spec.threads,
        batch=times.batch,
        counters=energy.counters,
    )
    detail = {
        "counters": list(energy.counters),
        "other_work": times.other_work,
        "other_cores": times.other_cores,
        "other_processes": list(times.other_processes),
        "noisy": is_disturbed(times),
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


def _memory(spec: TimingSpec, result: TimingResult, memory: MemoryUse) -> Metric:
    protocol = _protocol("memory", spec, result, memory.batch)
    detail = memory.model_dump(exclude={"peak"}) | {"engine": spec.engine, "protocol": protocol.facts}
    return Metric(value=memory.peak, unit="bytes", direction="lower", n=1, protocol=protocol.id, detail=detail)


def _protocol(
    family: Literal["latency", "memory", "parity"], spec: TimingSpec, result: TimingResult, batch: int
) -> TimingProtocol:
    return TimingProtocol(
        family=family,
        workload=spec.workload,
        engine=spec.engine,
        device=spec.device,
        machine=result.machine,
        threads=spec.threads,
        batch=batch,
    )
